"""Running the engine: arguments, parser, progress, previews, results, proofs, and the local generator over them."""

from .calibration import calibrate as calibrate
from .ensuring import ensure_binary as ensure_binary
from .estimates import EstimateStore as EstimateStore
from .images import check_input_images as check_input_images
from .local import LocalGenerator as LocalGenerator
from .measurements import CalibrationProgress as CalibrationProgress
from .measurements import CalibrationReport as CalibrationReport
from .measurements import Measurement as Measurement
from .parser import OutputParser as OutputParser
from .proof import draw_proof as draw_proof
from .proof import prove_engine as prove_engine

__all__ = (
    "CalibrationProgress",
    "CalibrationReport",
    "EstimateStore",
    "LocalGenerator",
    "Measurement",
    "OutputParser",
    "calibrate",
    "check_input_images",
    "draw_proof",
    "ensure_binary",
    "prove_engine",
)
