"""XML that a stranger wrote for OpenMM, checked before OpenMM sees it.

OpenMM's readers go by the attribute ``type`` of any element and run code for some of its values; they run scripts in
force fields, and evaluate an attribute of them as Python. So only what is known to be data passes: elements, types and
values are those of the lists below, and what OpenMM is given is the checked tree, written anew.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NoReturn
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from ....core.errors import ConfigurationError, FileFormatError
from ....core.files import read_at_most

MAX_BYTES = 2**26
"""Four times the largest force field that comes with OpenMM."""

MAX_ELEMENTS = 2**20
MAX_DEPTH = 32
MAX_ATTRIBUTE = 2**13
"""Characters in the value of an attribute; the longest are formulas."""

MAX_PARENTHESES = 64
"""How deeply parentheses in a formula are nested: OpenMM's parser calls itself for each."""

MAX_TERMS = 1000
"""Names, numbers and signs in a formula once its definitions are put in; those of Born radii have 70."""

MAX_FACTORS = 200
"""Signs of products, quotients and powers among them: differentiating a product takes OpenMM its length cubed."""

MAX_COUNT = 1000
"""Particles of one term of a force, or of one patch."""

COUNTS = (
    *("particles", "groups", "particlesPerSet", "particlesPerDonor", "particlesPerAcceptor"),
    *("residues", "bondCutoff"),
)
"""Attributes of which OpenMM makes as many objects, or steps, before it looks at them."""

FORCES = frozenset(
    {
        "AmoebaGeneralizedKirkwoodForce",
        "AmoebaMultipoleForce",
        "AmoebaTorsionTorsionForce",
        "AmoebaVdwForce",
        "AmoebaWcaDispersionForce",
        "AndersenThermostat",
        "ATMForce",
        "CMAPTorsionForce",
        "CMMotionRemover",
        "ConstantPotentialForce",
        "CustomAngleForce",
        "CustomBondForce",
        "CustomCentroidBondForce",
        "CustomCompoundBondForce",
        "CustomCVForce",
        "CustomExternalForce",
        "CustomGBForce",
        "CustomHbondForce",
        "CustomManyParticleForce",
        "CustomNonbondedForce",
        "CustomTorsionForce",
        "CustomVolumeForce",
        "DrudeForce",
        "GayBerneForce",
        "GBSAOBCForce",
        "HarmonicAngleForce",
        "HarmonicBondForce",
        "HippoNonbondedForce",
        "LCPOForce",
        "MonteCarloAnisotropicBarostat",
        "MonteCarloBarostat",
        "MonteCarloFlexibleBarostat",
        "MonteCarloMembraneBarostat",
        "NonbondedForce",
        "OrientationRestraintForce",
        "PeriodicTorsionForce",
        "RBTorsionForce",
        "RGForce",
        "RMSDForce",
    }
)
"""Forces in a serialized System that are numbers and formulas."""

FUNCTIONS = frozenset(f"{kind}{n}DFunction" for kind in ("Continuous", "Discrete") for n in (1, 2, 3))
"""Tabulated functions in a serialized System."""

HOLDERS_OF_FORCES = ("Forces", "CollectiveVariable", "Force")
"""Where OpenMM reads a force; elsewhere it would take the object for another one."""

_CUSTOM = ("Atom", "UseAttributeFromResidue", "PerParticleParameter", "GlobalParameter", "Function")
SECTIONS: dict[str, tuple[str, ...]] = {
    "AtomTypes": ("Type",),
    "Residues": ("Residue",),
    "Patches": ("Patch",),
    "HarmonicBondForce": ("Bond",),
    "HarmonicAngleForce": ("Angle",),
    "PeriodicTorsionForce": ("Proper", "Improper"),
    "RBTorsionForce": ("Proper", "Improper"),
    "CMAPTorsionForce": ("Map", "Torsion"),
    "NonbondedForce": ("Atom", "UseAttributeFromResidue"),
    "LennardJonesForce": ("Atom", "NBFixPair", "UseAttributeFromResidue"),
    "GBSAOBCForce": ("Atom", "UseAttributeFromResidue"),
    "CustomBondForce": ("Bond", "GlobalParameter", "PerBondParameter"),
    "CustomAngleForce": ("Angle", "GlobalParameter", "PerAngleParameter"),
    "CustomTorsionForce": ("Proper", "Improper", "GlobalParameter", "PerTorsionParameter"),
    "CustomNonbondedForce": ("ComputedValue", *_CUSTOM),
    "CustomGBForce": ("ComputedValue", "EnergyTerm", *_CUSTOM),
    "CustomHbondForce": (
        *("Donor", "Acceptor", "GlobalParameter", "PerDonorParameter", "PerAcceptorParameter", "Function"),
    ),
    "CustomManyParticleForce": ("TypeFilter", *_CUSTOM),
    "AmoebaBondForce": ("Bond",),
    "AmoebaAngleForce": ("Angle",),
    "AmoebaOutOfPlaneBendForce": ("Angle",),
    "AmoebaTorsionForce": ("Torsion",),
    "AmoebaPiTorsionForce": ("PiTorsion",),
    "AmoebaStretchTorsionForce": ("Torsion",),
    "AmoebaAngleTorsionForce": ("Torsion",),
    "AmoebaTorsionTorsionForce": ("TorsionTorsion", "TorsionTorsionGrid"),
    "AmoebaStretchBendForce": ("StretchBend",),
    "AmoebaVdwForce": ("Vdw", "Pair"),
    "AmoebaMultipoleForce": ("Multipole", "Polarize"),
    "AmoebaWcaDispersionForce": ("WcaDispersion",),
    "AmoebaGeneralizedKirkwoodForce": ("GeneralizedKirkwood",),
    "AmoebaUreyBradleyForce": ("UreyBradley",),
    "HippoNonbondedForce": ("Atom", "UseAttributeFromResidue", "Exception"),
    "DrudeForce": ("Particle",),
}
"""The sections of a force field, and the elements in each."""

DEEPER: dict[str, tuple[str, ...]] = {
    "Residue": ("Atom", "VirtualSite", "Bond", "ExternalBond", "Constraint", "AllowPatch"),
    "Patch": (
        *("AddAtom", "ChangeAtom", "RemoveAtom", "AddBond", "RemoveBond", "AddExternalBond", "RemoveExternalBond"),
        *("VirtualSite", "ApplyToResidue"),
    ),
    "TorsionTorsionGrid": ("Grid",),
}
"""The elements inside those."""

IN_WORDS = re.compile(
    r"(name|class\d*|types?|type\d+|element|atomName\d*|siteName|from|to|rigidWater|inPlane|ordering|periodic|"
    r"radiusrule|radiustype|radiussize|epsilonrule|permutationMode|extrapolationCoefficients|ingroup)"
)
"""Attributes of a force field whose values are names or fixed words; others hold numbers, or the formulas below."""

FORMULAS = ("energy", "expression")
WITH_FORMULAS = ("ComputedValue", "EnergyTerm")
WITH_NUMBERS = ("Map", "Function")
"""Elements of a force field whose text OpenMM reads, as a formula or as numbers."""

NAME = re.compile(r"[\w'*+,\-./:#@%^~ ]{0,200}", re.ASCII)
"""Names as force fields have them: nothing in them could be evaluated to more than itself."""

NUMBER = re.compile(r"\s*[-+]?(\d{1,40}\.?\d{0,40}|\.\d{1,40}|inf|nan)(e[-+]?\d{1,4})?\s*", re.IGNORECASE | re.ASCII)
TRUTHS = ("True", "False", "0", "1")
"""What OpenMM evaluates as Python, and no more of it."""

EVALUATED = ("useDispersionCorrection",)


def read_xml(path: Path) -> Element:
    """The root element of an XML file without a document type, of bounded size and depth.

    Raises:
        FileFormatError: If it is anything else.
    """
    try:
        text = read_at_most(path, MAX_BYTES).decode("utf-8-sig")
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise FileFormatError(f'"{path}" declares a document type or entities, which no file of OpenMM does.')
        parser = ElementTree.XMLParser(target=_Builder(path))
        for start in range(0, len(text), 2**16):
            parser.feed(text[start : start + 2**16])
        root: Element = parser.close()
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise FileFormatError(f'"{path}" is not a complete XML file: {error}.') from error
    return root


class _Builder(ElementTree.TreeBuilder):
    """Builds a tree while it is small."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._depth = self._n_elements = 0

    def start(self, tag: Any, attrs: Any, /) -> Element:
        self._depth += 1
        self._n_elements += 1
        if self._depth > MAX_DEPTH:
            raise FileFormatError(f'"{self._path}" is nested more than {MAX_DEPTH} levels deep, and not read.')
        if self._n_elements > MAX_ELEMENTS:
            raise FileFormatError(f'"{self._path}" has more than {MAX_ELEMENTS} elements, and is not read.')
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> Element:
        self._depth -= 1
        return super().end(tag)


def checked_system(root: Element, path: Path) -> str:
    """A serialized System, written anew from elements and types that hold no code.

    Args:
        root: Its root element.
        path: Its file.

    Raises:
        ConfigurationError: If it contains anything else.
    """
    if root.tag != "System" or root.get("type", "System") != "System":
        _refuse_type(path, root)
    level = [("", root)]
    while level:
        parent, element = level.pop()
        kind = element.get("type")
        if element is not root and kind is not None and not _fits(parent, element.tag, kind):
            _refuse_type(path, element)
        _require_plain(element, path)
        for name, value in element.attrib.items():
            if name in COUNTS and not _is_count(value):
                raise ConfigurationError(
                    f'"{path}" says that an element {element.tag} is of {value} {name}; at most {MAX_COUNT} are read.'
                )
            _require_formula(path, element, name, value)
        level += [(element.tag, child) for child in element]
    return ElementTree.tostring(root, encoding="unicode")


def _fits(parent: str, tag: str, kind: str) -> bool:
    """Whether OpenMM makes of an element of a type what belongs in its place."""
    if kind in FORCES:
        return tag == "Force" and parent in HOLDERS_OF_FORCES
    if kind in FUNCTIONS:
        return tag == "Function" and parent == "Functions"
    # numbers of kinds, and how an ATMForce displaces a particle, of which no object is made
    return tag not in ("Force", "Function", "System") and (kind.isdecimal() or (tag, kind) == ("Particle", "fixed"))


def _refuse_type(path: Path, element: Element) -> NoReturn:
    kind = element.get("type", "")
    raise ConfigurationError(
        f'"{path}" contains a {kind or "System without a type"} in an element {element.tag}, and reading it might run '
        "code: only the forces of OpenMM itself that are numbers and formulas are read, where OpenMM writes them. If "
        "you trust the file, deserialize it in a script and use OpenMMPotential."
    )


def checked_force_field(root: Element, path: Path) -> str:
    """A force field, written anew from elements and attributes that hold no code; remarks are left out.

    Args:
        root: Its root element.
        path: Its file.

    Raises:
        FileFormatError: If it is not a force field.
        ConfigurationError: If it contains anything that OpenMM might run, include or not know.
    """
    if root.tag != "ForceField":
        raise FileFormatError(f'"{path}" is not an OpenMM force field: its XML is of another kind.')
    for remark in root.findall("Info"):
        root.remove(remark)
    level = [(root, tuple(SECTIONS))]
    while level:
        element, known = level.pop()
        _require_plain(element, path)
        for name, value in element.attrib.items():
            _require_literal(path, element, name, value)
        for child in element:
            if child.tag not in known:
                _refuse_element(path, child.tag)
            below = SECTIONS if element is root else DEEPER
            level.append((child, below.get(child.tag, ())))
    return ElementTree.tostring(root, encoding="unicode")


def _refuse_element(path: Path, tag: str) -> NoReturn:
    if tag == "Include":
        raise ConfigurationError(
            f'"{path}" has the element Include, and reading it may run code. Name the included files beside it, with '
            "commas, and remove the element."
        )
    raise ConfigurationError(
        f'"{path}" has the element {tag}, and reading it may run code, or OpenMM passes over it. If you trust it, make '
        "a System with it in a script and use OpenMMPotential."
    )


def _require_literal(path: Path, element: Element, name: str, value: str) -> None:
    """Raise a `ConfigurationError` unless an attribute's value is the number, name or formula that belongs there."""
    if name in EVALUATED:
        fits = value in TRUTHS
    elif name in FORMULAS:
        _require_formula(path, element, name, value)
        fits = True
    elif name in COUNTS:
        fits = _is_count(value)
    else:
        fits = NUMBER.fullmatch(value) is not None or (IN_WORDS.fullmatch(name) and NAME.fullmatch(value)) is not None
    if not fits:
        raise ConfigurationError(
            f'"{path}" has the value "{value}" for the attribute {name} of {element.tag}, which is none of the names, '
            "numbers and words that belong there. Correct it."
        )


def _is_count(value: str) -> bool:
    return value.isascii() and value.isdecimal() and len(value) <= len(str(MAX_COUNT)) and int(value) <= MAX_COUNT


def _require_plain(element: Element, path: Path) -> None:
    """Raise a `ConfigurationError` if names are in a namespace, or text is neither numbers nor a formula.

    Text in all other elements, which OpenMM does not read, is taken out.
    """
    if any("{" in name for name in (element.tag, *element.attrib)):
        raise ConfigurationError(f'"{path}" has XML namespaces, which OpenMM does not know. Remove them.')
    element.tail = None
    if element.tag in WITH_FORMULAS:
        _require_formula(path, element, "text", element.text or "")
    elif element.tag not in WITH_NUMBERS:
        element.text = None
    elif not all(NUMBER.fullmatch(word) for word in (element.text or "").split()):
        raise ConfigurationError(
            f'"{path}" has an element {element.tag} whose text is not a list of numbers. Correct it.'
        )


def _require_formula(path: Path, element: Element, name: str, value: str) -> None:
    """Raise a `ConfigurationError` for a value that would take OpenMM's parser of formulas down."""
    depth = deepest = 0
    for letter in value if "(" in value else "":
        depth += (letter == "(") - (letter == ")")
        deepest = max(deepest, depth)
    fits = len(value) <= MAX_ATTRIBUTE and deepest <= MAX_PARENTHESES
    if not fits or (n := _n_terms(value))[0] > MAX_TERMS or n[1] > MAX_FACTORS:
        raise ConfigurationError(
            f'"{path}" has a formula that is too long to read ({name} of {element.tag}): at most {MAX_ATTRIBUTE} '
            f"letters, {MAX_PARENTHESES} parentheses in each other, and once its definitions are put in, {MAX_TERMS} "
            f"terms and {MAX_FACTORS} factors. Make a System with it in a script and use OpenMMPotential."
        )


WORD = re.compile(r"[A-Za-z_]\w*|[\d.]+|\S")
PRODUCTS = "*/^"


def _n_terms(formula: str) -> tuple[int, int]:
    """Terms and signs of products in a formula like ``a*b; a=c+c; c=d+1`` once its definitions are put in."""
    main, *definitions = formula.split(";")
    found: dict[str, tuple[int, int]] = {}
    # a definition uses later ones, also of its own name, as OpenMM reads them
    for part in [*reversed(definitions), f"={main}"]:
        name, _, body = part.partition("=")
        inner = [found.get(word, (1, int(word in PRODUCTS))) for word in WORD.findall(body)]
        found[name.strip()] = (sum(n for n, _ in inner), sum(n for _, n in inner))
    return found[""]
