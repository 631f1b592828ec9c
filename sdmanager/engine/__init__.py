"""Running the engine: arguments, parser, progress, previews, results, and the local generator over them."""

from .estimates import EstimateStore as EstimateStore
from .local import LocalGenerator as LocalGenerator
from .parser import OutputParser as OutputParser
from .proof import Proof as Proof
from .proof import prove_engine as prove_engine

__all__ = ("EstimateStore", "LocalGenerator", "OutputParser", "Proof", "prove_engine")
