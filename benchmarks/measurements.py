"""The measurements of `make bench`.

A new one is a function here, decorated with its unit and goal; its docstring is what RESULTS.md
says of it.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.records import Goal

MEASUREMENTS: dict[str, "Measurement"] = {}


@dataclass(frozen=True)
class Found:
    """What a measurement returns; see `Record` for the fields."""

    value: float
    device: str
    spread: tuple[float, float] | None = None
    versions: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """A function that measures, with what its value shall be."""

    name: str
    about: str
    unit: str
    goal: Goal
    gpu: bool
    run: Callable[[], Found]


def measurement(
    unit: str, goal: Goal, *, gpu: bool = False
) -> Callable[[Callable[[], Found]], Callable[[], Found]]:
    """Enters a function into MEASUREMENTS under its own name, and whether it needs a GPU."""

    def enter(run: Callable[[], Found]) -> Callable[[], Found]:
        name = run.__name__
        MEASUREMENTS[name] = Measurement(name, inspect.getdoc(run) or "", unit, goal, gpu, run)
        return run

    return enter


# What measures imports JAX and data sets, which takes seconds and is no part of --help.


@measurement("x", Goal(">=", 1.0))
def train_over_torch_cpu() -> Found:
    """Training steps per second of the tiny denoiser, over those of the same in PyTorch on CPU.

    Both take the whole step (noise, forward, EDM loss, backward, gradient clipping, Adam, moving
    average) on the same batch of 32 patches of 32 x 32 pixels in float32. PyTorch has a fused
    Adam, runs eagerly or compiled and in the memory format that is fastest here, on all cores.
    Rounds take turns; the value is the ratio of the median times. Before, both networks are given
    the same weights and must agree in the output and in its gradient.
    """
    from benchmarks.training import over_torch, tiny

    return over_torch("cpu", "same", *tiny())


@measurement("x", Goal(">=", 1.0))
def train_over_diffusers_cpu() -> Found:
    """The same as train_over_torch_cpu, with UNet2DModel of diffusers as PyTorch's network.

    Its widths are those that come nearest in parameters and floating-point operations.
    """
    from benchmarks.training import over_torch, tiny

    return over_torch("cpu", "diffusers", *tiny())


@measurement("x", Goal(">=", 1.3), gpu=True)
def train_over_torch_gpu() -> Found:
    """Training steps per second of the base denoiser, over those of UNet2DModel, on one GPU.

    As train_over_diffusers_cpu, with 8 patches of 256 x 256 pixels in bfloat16 and without remat;
    diffusers' network in PyTorch's autocast.
    """
    from benchmarks.training import base, over_torch

    return over_torch("gpu", "diffusers", *base())


@measurement("", Goal(">=", 0.5), gpu=True)
def train_mfu_gpu() -> Found:
    """Arithmetic of the base denoiser's training step, over that of a matrix product, on one GPU.

    FLOPs of the compiled step, 8 patches of 256 x 256 pixels without remat, as XLA's cost analysis
    counts them, divided by its time; over the rate of a product of two 8192 x 8192 matrices of
    bfloat16. Rounds take turns; the value is of the median times.
    """
    from benchmarks.training import base, share_of_matrix_rate

    return share_of_matrix_rate(*base())


@measurement("s", Goal("<=", 900.0))
def demo_seconds() -> Found:
    """Wall time of `make demo` in a fresh clone with an empty home folder.

    From the clone of the last commit to the report: making the environment, with the download of
    all packages, and every stage of the study on simulated patients.
    """
    from benchmarks.demo import in_fresh_clone

    return in_fresh_clone()


@measurement("x", Goal(">=", 0.7))
def ingest_over_codec() -> Found:
    """Speed of the whole ingest with one worker, over that of the bare codecs on the same files.

    Files of 1 to 15 megapixels, 12 bits, uncompressed, RLE, JPEG lossless, JPEG-LS and JPEG 2000
    lossless. The ingest reads, guards, decodes, brings to grey values, looks for the crop,
    hashes, builds the pyramid, encodes all its tiles, writes the spool and the dataset and its
    checksums; the limit only reads, decodes and encodes each picture as a whole.
    """
    from benchmarks.data import ingest_over_codec

    return ingest_over_codec()


@measurement("x", Goal(">=", 100.0))
def patches_over_pydicom() -> Found:
    """Random 256 x 256 patches a second on one core, over a DataLoader on JPEG-lossless DICOM.

    The sources have 15 megapixels. The peer is PyTorch's DataLoader with a dataset that opens a
    file with pydicom (and gdcm) for each patch.
    """
    from benchmarks.data import patches_over_pydicom

    return patches_over_pydicom("JPEG lossless")


@measurement("x", Goal(">=", 5.0))
def patches_over_pydicom_uncompressed() -> Found:
    """The same as patches_over_pydicom, from uncompressed DICOM."""
    from benchmarks.data import patches_over_pydicom

    return patches_over_pydicom("uncompressed")


@measurement("x", Goal(">=", 0.6))
def patches_over_decode() -> Found:
    """Random 256 x 256 patches a second, over the rate at which their tiles decode from memory.

    The detail `cost from 15 megapixels over cost from 1` shall be at most 1.2.
    """
    from benchmarks.data import patches_over_decode

    return patches_over_decode()


@measurement("of 2000", Goal("<=", 0.0))
def undetected_mutations() -> Found:
    """Damaged radiographs on which reading crashed or took longer than 20 seconds.

    Files of every transfer syntax, made up and real (where the real ones are), are cut off
    anywhere or have one to eight bytes changed. Each is read in a process of its own. The
    details count, for each transfer syntax, those that were rejected, read with the original's
    pixels, and read with other pixels or other facts, which nothing in them gives away.
    """
    from benchmarks.mutations import undetected

    return undetected()


@measurement("AUC", Goal("<=", 0.6))
def phantom_header_auc() -> Found:
    """How well anything but the look of the bone tells the class of a simulated patient.

    600 patients with two radiographs each on average. Logistic regression and gradient boosting
    guess atypical or normal from header facts (sizes, spacing, bits, window, device, hospital,
    view, age, sex, number of images) and the histogram of grey values, cross-validated by
    patient. The value is the better one's area under the ROC curve, for which 0.5 is chance; the
    range is its 95% interval, by a bootstrap over patients.
    """
    from benchmarks.phantom_fairness import header_auc

    return header_auc()


@measurement("MP/s", Goal(">=", 8.0))
def phantom_mp_per_s() -> Found:
    """Megapixels of simulated radiographs that one core writes in a second.

    24 patients of the full cohort (1 to 15 megapixels, hospitals with all encodings) after 3 that
    do not count, from the body to the DICOM file, in one process with one thread. Seconds are the
    process's own, so other work does not count; the range is that of patients. Stages are timed in
    a second run under a profiler.
    """
    from benchmarks.phantom import one_core

    return one_core()


@measurement("AUC", Goal(">=", 0.8))
def phantom_classifier_auc() -> Found:
    """How well a small classifier tells simulated patients' fractures apart; takes half an hour.

    The whole cohort (1200 patients, 4300 radiographs, 72 hospitals, 20% AFF) at 256 to 512 pixels.
    A residual network is trained on patients of most hospitals. The value is the AUC over
    held-out patients of the same hospitals, the range its 95% interval; it shall be below 0.97,
    and at most 0.05 lower for patients of hospitals that were held out. The place whose
    occlusion changes the answer most shall lie near the fracture.
    """
    from benchmarks.phantom_classifier import classifier_auc

    return classifier_auc()


@measurement("", Goal("<=", 1.05))
def sampling_exponent() -> Found:
    """The exponent of sampling time against pixels; 1 is proportional.

    One radiograph each of 0.25, 1, 4 and 15 megapixels, from a small U-Net on patches of 64 x 64
    pixels: all levels, tiles that overlap by a quarter, joined at each evaluation. The slope of
    a straight line through the logarithms of seconds and pixels. In the details, the same network
    on whole images, their last level alone.
    """
    from benchmarks.sampling import sampling_exponent

    return sampling_exponent()


@measurement("MB/MP", Goal("<=", 2.0))
def sampling_memory_slope() -> Found:
    """Peak memory of sampling beyond the canvases, by size of the radiograph.

    The process's peak resident memory at 1, 4 and 15 megapixels, less what NumPy's arrays took at
    their peak, which the canvases on the host are; the slope of a straight line through both. On a
    GPU this is the device's share, the same for all sizes. The goal is the radiograph itself.
    """
    from benchmarks.sampling import sampling_memory_slope

    return sampling_memory_slope()


@measurement("s", Goal("<=", 20.0))
def first_step_seconds() -> Found:
    """From the start of the command to the first step of the tiny variant's training.

    With the compiled functions of an earlier run in the workdir; without them in the details.
    """
    from benchmarks.sampling import first_step_seconds

    return first_step_seconds()


@measurement("%", Goal("<=", 3.0))
def loop_overhead() -> Found:
    """Time of a training step in the loop, over that of the compiled step alone, minus one.

    The tiny denoiser on 32 patches of 32 x 32 pixels. The loop reads patches from a dataset, logs
    to JSON lines and TensorBoard every 20 steps, shows its progress, and saves a checkpoint every
    40; the bare step takes one batch again and again, before and after. Values are medians of
    intervals of 20 steps.
    """
    from benchmarks.scale import loop_overhead

    return loop_overhead()


@measurement("%", Goal("<=", 5.0))
def checkpoint_pause() -> Found:
    """What an asynchronous checkpoint costs, as a share of the time of 100 steps.

    The tiny denoiser with its moving average and Adam's state. Counted is the time until the loop
    goes on, and how much slower the next 20 steps are beside the writing.
    """
    from benchmarks.scale import checkpoint_pause

    return checkpoint_pause()


@measurement("s", Goal("<=", 60.0))
def srun_first_step_seconds() -> Found:
    """Seconds from `srun` on two nodes to the first training step.

    A SLURM of two nodes on this machine, one process each, the tiny denoiser, nothing compiled
    before. The processes share the machine's cores, so both compile at half the speed.
    """
    from benchmarks.scale import srun_first_step_seconds

    return srun_first_step_seconds()


@measurement("s per GiB", Goal("<=", 5.0))
def restore_seconds_per_gib() -> Found:
    """Seconds to restore 1 GiB of a checkpoint, with its checksums.

    Files are taken out of the operating system's cache before (a virtual machine's host may still
    have them). At the goal, the 6 GiB of `large` are back in half a minute. Restoring reads files
    twice: for their checksums, then, from the cache, for their content. Beside it are the times to
    read the same files, and both with the files in the cache.
    """
    from benchmarks.scale import restore_seconds_per_gib

    return restore_seconds_per_gib()


@measurement("x", Goal(">=", 1.0))
def gan_over_torch_cpu() -> Found:
    """Training steps per second of the tiny GAN, over those of the same in PyTorch on CPU.

    A step is one update of both networks with R1 and R2, Adam and moving average, on 16 images of
    64 x 64 pixels in float32. femur_jax also augments what the discriminator sees; PyTorch does
    not, runs eagerly (torch.compile cannot differentiate twice) with a fused Adam, in the memory
    format that is faster here, on all cores. Rounds take turns; the value is the ratio of the
    median times. Before, losses, penalties and gradients of both must agree in float64.
    """
    from benchmarks.gan import over_torch, tiny

    return over_torch("cpu", tiny())


@measurement("x", Goal(">=", 1.2), gpu=True)
def gan_over_torch_gpu() -> Found:
    """The same as gan_over_torch_cpu for the base GAN on one GPU, on 16 images of 256 x 256 pixels.

    What the presets compute in bfloat16 PyTorch computes in autocast, and float32 products in both
    as TF32. Nothing is compared in float64. The details have the share of a matrix product's rate,
    as in train_mfu_gpu, and the memory of a step at 256 and at 512 pixels.
    """
    from benchmarks.gan import base, over_torch

    return over_torch("gpu", base())


@measurement("of 25", Goal(">=", 25.0))
def gan_modes() -> Found:
    """Modes that the GAN's losses find of 25 Gaussians on a grid, the worst of three seeds.

    Neighbours are 40 standard deviations apart. A mode is found where 20 of 2500 samples or more
    are within three deviations of it. Networks are plain, of three hidden layers.
    """
    from benchmarks.gan_modes import of_gaussians

    return of_gaussians()


@measurement("of 1000", Goal(">=", 1000.0))
def gan_stacked_digits() -> Found:
    """Combinations of three stacked digits that the GAN's losses find, the worst of three seeds.

    As with stacked MNIST, but of scikit-learn's 1797 digits of 8 x 8 pixels: 25,600 samples, each
    digit named by a support vector machine. Networks are plain, of three hidden layers.
    """
    from benchmarks.gan_modes import of_digits

    return of_digits()


@measurement("x", Goal("<=", 1.0))
def gan_lazy_penalties() -> Found:
    """KID of the tiny GAN with penalties at every 8th step, over that with all, on CPU.

    After 300 steps each, half of what the demo takes. Pixels of 32 x 32, 150 samples of each class
    against the test split; one seed. The seconds in the details are what XLA makes of a branch on
    CPU.
    """
    from benchmarks.gan_quality import lazy_over_full

    return lazy_over_full()


@measurement("x", Goal(">=", 5.0))
def gan_kid_from_start() -> Found:
    """By how much the KID of the tiny GAN on simulated radiographs falls in 600 steps; minutes.

    900 radiographs of 600 simulated patients in letterboxes of 64 x 64 pixels, 16 at a step, on
    CPU. KID is against the test split, with the pixels of 32 x 32 letterboxes as features, before
    the first step and after the last; the details give the floor, validation against test, and the
    recall (Kynkäänniemi et al. 2019, k = 5) of each class, which should be above 0.1.
    """
    from benchmarks.gan_quality import kid_from_start

    return kid_from_start()


@measurement("x", Goal(">=", 1.0))
def metrics_over_torch_fidelity() -> Found:
    """Speed of FID, KID, precision and recall on features, over torch-fidelity's at equal results.

    Two sets of 10,000 x 2048 made-up features that are like Inception's. Both take what they
    publish as usual: KID from 10 disjoint subsets of 1000 here, from 100 random ones there, so its
    values agree within standard errors; that of one given subset, FID, precision and recall agree
    to rounding. The value is the ratio of the median times of rounds that take turns.
    """
    from benchmarks.evaluation import metrics_over_torch_fidelity

    return metrics_over_torch_fidelity()


@measurement("x", Goal(">=", 1.0))
def prdc_over_prdc() -> Found:
    """Speed of precision, recall, density and coverage, over the package prdc's at equal results.

    On the features of metrics_over_torch_fidelity, with 5 neighbours.
    """
    from benchmarks.evaluation import prdc_over_prdc

    return prdc_over_prdc()


@measurement("GiB", Goal("<=", 2.0))
def neighbour_search_gib() -> Found:
    """Peak memory of a search for 50 nearest neighbours among 100,000 patches of 32 x 32 pixels.

    Of the whole process, with the patches in float32 (0.38 GiB) and the libraries.
    """
    from benchmarks.evaluation import neighbour_search_gib

    return neighbour_search_gib()


@measurement("x", Goal("<=", 1.0))
def diffusion_breaks_over_real() -> Found:
    """Breaks of the femur's edges in synthetic radiographs, over those in real ones; an hour.

    The tiny denoiser, trained for longer on 2400 radiographs of 900 simulated patients, 96 to 128
    pixels long in patches of 32. A break is a row from which a traced edge moves by at least 4
    pixels in three rows; classes count alike, since some fractures are one. The range is the 95%
    interval, by a bootstrap over radiographs. The details give how well a classifier of simulated
    patients tells the classes apart, of held-out patients and of synthetic radiographs.
    """
    from benchmarks.diffusion_quality import quality

    return quality()


@measurement("pairs", Goal("<=", 0.0))
def degraded_sets() -> Found:
    """Pairs of sets that FID, KID or a classifier trained on them order wrongly; minutes.

    Some 500 radiographs of simulated patients as they are, and with a little and much blur, with a
    little and much noise, of one hospital in four alone, with one AFF in twenty, and with twelve of
    them repeated. Each must come behind the unchanged one, and much behind a little, in FID and KID
    of pixels against held-out patients and in the AUC of a tiny classifier on them.
    """
    from benchmarks.degraded_sets import order_of_degraded_sets

    return order_of_degraded_sets()


@measurement("", Goal(">=", 0.5))
def overfit_flagged() -> Found:
    """Share of the radiographs of a model that has memorised that the audit flags; minutes.

    The tiny denoiser, letterboxed, on the radiographs of ten simulated patients, without mirroring.
    A few radiographs are made with the averages of every 200 steps and audited; the details have
    the curve and the step before the onset, at which there must be no accusation yet.
    """
    from benchmarks.memorization import overfit_flagged

    return overfit_flagged()
