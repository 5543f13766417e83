"""A molecule and its configurations, in and out: topologies, elements, frames and their files."""
