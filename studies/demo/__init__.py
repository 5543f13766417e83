"""What the package does, shown in minutes."""
