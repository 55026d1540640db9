"""The networks of a benchmark, with weights and prepared input.

Reading, resizing and normalizing images is not part of a run.
"""
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from mmcv.transforms import Compose
from mmdet.models.detectors import BaseDetector
from mmdet.structures import DetDataSample
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseModel
from mmengine.registry import DATASETS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..analysis.detection_sheet import sample_evenly
from ..deploy.optimize.apply import DTYPES, compute_difference, optimize
from ..deploy.optimize.backends import load_runtime
from ..deploy.optimize.modes import MODES
from ..engine.build import build_network, get_input_shape, load_network
from ..engine.checks import check_datasets
from ..utils.dummy_forward import create_placeholder_samples, run_network
from ..utils.errors import UserError
from ..utils.image_files import find_images

TEST_SET = '(test set)'

Batch = tuple[Tensor, list[DetDataSample] | None]


@dataclass(frozen=True)
class InputConfig:
    """What networks run on, and how.

    Attributes:
        part: 'detector' (the whole model, whatever it does) or 'backbone'.
        nms: Whether a detector decodes and suppresses its predictions.
        shape: Height and width of the synthetic images, px, or one number
            for both; None for the size of each config's test pipeline.
        batch_size: Images of a run.
        data: None for noise; a folder, an image or a pattern; or
            :data:`TEST_SET` for the config's own test images.
        num_images: How many of these, at most.
        dtype: A name of :data:`DTYPES`. A backbone's weights and input are
            converted; whole models run under autocast, like MMEngine's
            ``--amp``.
    """
    part: str = 'detector'
    nms: bool = True
    shape: Sequence[int] | None = None
    batch_size: int = 1
    data: str | None = None
    num_images: int = 16
    device: str = 'cpu'
    dtype: str = 'fp32'
    channels_last: bool = False


class BatchCycle:
    """Runs of several batches in turn; ``batch`` is the index of the last."""

    def __init__(self, runs: Sequence[Callable[[], Any]]) -> None:
        self.num_batches, self.batch = len(runs), -1
        self._runs = runs

    def __call__(self) -> Any:
        """Run the next batch."""
        self.batch = (self.batch + 1) % self.num_batches
        return self._runs[self.batch]()


class BenchmarkModel:
    """A network with its input.

    Args:
        cfg: Config of a detector or a classifier.
        inputs: What the network runs on.
        checkpoint: Weights of the whole model. Without them they are random,
            and the statistics of BN are those of noise, so that activations
            keep their size through all layers.
        mode: A name of :data:`vovnet.deploy.optimize.modes.MODES`, which then
            sets precision and memory order.

    Attributes:
        network: In eval mode, on its device; empty if another runtime has it.
        run: Runs the network on the next batch, without gradients.
        batches: Images (N, C, H, W), and their samples if it is a detector.
        tensors: The images of all batches.
        shapes: How many batches there are of each (N, C, H, W).
        dtype: A name of :data:`DTYPES`.
        foreign: Whether something else than torch's parameters holds the
            weights: oneDNN, compiled code, another runtime.
        difference: Of the first batch's maps in this mode from those of the
            plain network; None without a mode.

    Raises:
        UserError: If the config has no backbone, the checkpoint is another
            model's, there are too few images, or the network cannot run on
            them.
    """

    def __init__(self, cfg: Config, inputs: InputConfig,
                 checkpoint: str | None = None,
                 mode: str | None = None) -> None:
        self.inputs, device = inputs, torch.device(inputs.device)
        self.network = (load_network(cfg, checkpoint, inputs.part)
                        if checkpoint else build_network(cfg, inputs.part))
        self.network.to(device).eval()
        if inputs.data:
            batches = _load_images(cfg, inputs)
        else:
            shape = get_input_shape(cfg, inputs.shape, inputs.part)
            batches = [_make_noise(shape, inputs.batch_size, self.network)]
        if checkpoint is None:
            _set_statistics(self.network, batches[0][0])
        self.batches = _convert(self.network, batches, inputs)
        self.tensors = [images for images, _ in self.batches]
        self.shapes = Counter(tuple(images.shape) for images in self.tensors)
        self.dtype, self.foreign, self.difference = inputs.dtype, False, None
        runtime = self._optimize(mode, device) if mode else None
        self._runs = self._build_runs(runtime)
        self.run = (self._runs[0] if len(self._runs) == 1 else
                    BatchCycle(self._runs))
        try:
            self.run()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).split('\n')
            raise UserError(
                f'config {cfg.filename}: {type(self.network).__name__} '
                f'cannot run on {inputs.device} in {inputs.dtype} on images '
                f'of shape {"x".join(map(str, self.tensors[0].shape))} '
                f'({reason[0]}); try another --shape, --nms out or --part '
                'backbone') from error

    def _optimize(self, name: str, device: torch.device
                  ) -> Callable[[Tensor], Any] | None:
        """Put the network into a mode; return another runtime's network."""
        mode, (images, samples), runtime = MODES[name], self.batches[0], None
        with torch.no_grad():
            plain = run_network(self.network, images, samples)
            if mode.runtime:
                runtime = load_runtime(name, self.network, self.tensors)
                self.network, maps = nn.Module(), runtime(images)
            else:
                self.network = optimize(self.network, name, images)
                maps = run_network(self.network, images, samples)
        self.difference = compute_difference(maps, plain)
        self.dtype = mode.dtype
        # A graph's replay allocates nothing, so that its maps are not seen.
        self.foreign = bool(mode.runtime or mode.compile or mode.graph or (
            mode.fold and device.type == 'cpu'))
        return runtime

    def _build_runs(self, runtime: Callable[[Tensor], Any] | None
                    ) -> list[Callable[[], Any]]:
        """Build a function for each batch that runs the network on it."""
        inputs = self.inputs
        if isinstance(self.network, BaseModel):
            forward = _predict if inputs.nms else run_network
            runs = [partial(forward, self.network, *batch)
                    for batch in self.batches]
        else:
            runs = [partial(runtime or self.network, images)
                    for images in self.tensors]
        if inputs.part == 'detector' and inputs.dtype != 'fp32':
            runs = [torch.autocast(self.tensors[0].device.type,
                                   DTYPES[inputs.dtype])(run) for run in runs]
        # As MMEngine tests, and as what is compiled was compiled.
        return [torch.no_grad()(run) for run in runs]

    def count_detections(self) -> float | None:
        """Return the mean number of boxes per image that NMS leaves.

        None without NMS.
        """
        if not (self.inputs.nms and isinstance(self.network, BaseDetector)):
            return None
        counts = [len(sample.pred_instances)
                  for run in self._runs for sample in run()]
        return sum(counts) / len(counts)


def _predict(network: BaseModel, images: Tensor,
             samples: list[DetDataSample] | None) -> Any:
    # Predictions are added to the samples, which are used more than once.
    samples = samples and [sample.new() for sample in samples]
    return network(images, samples, mode='predict')


def _make_noise(shape: Sequence[int], batch_size: int,
                network: nn.Module) -> Batch:
    images = torch.randn(batch_size, *shape[1:],
                         generator=torch.Generator().manual_seed(0))
    if isinstance(network, BaseDetector):
        return images, create_placeholder_samples(images)
    return images, None


def _load_images(cfg: Config, inputs: InputConfig) -> list[Batch]:
    """Load batches of images, as the model's data preprocessor makes them."""
    if inputs.data == TEST_SET:
        if 'test_dataloader' not in cfg:
            raise UserError(f'config {cfg.filename}: has no test_dataloader; '
                            'give --data a folder of images')
        check_datasets(cfg, ['test'])
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
        items = [dataset[i]
                 for i in sample_evenly(len(dataset), inputs.num_images)]
    else:
        pipeline = Compose([
            step for step in get_test_pipeline_cfg(cfg.copy())
            if not str(step['type']).endswith('Annotations')])
        _, files = find_images(inputs.data)
        items = [pipeline(dict(img_path=str(files[i]), img_id=i))
                 for i in sample_evenly(len(files), inputs.num_images)]
    size, preprocess = inputs.batch_size, build_network(cfg).data_preprocessor
    batches = []
    for i in range(0, len(items) - size + 1, size):
        batch = preprocess(pseudo_collate(items[i:i + size]))
        batches.append((batch['inputs'], batch.get('data_samples')))
    if not batches:
        raise UserError(f'--data {inputs.data}: {len(items)} images are fewer '
                        f'than --batch-size {size}; add images or lower it')
    return batches


def _set_statistics(network: nn.Module, images: Tensor) -> None:
    """Set the statistics of BN from noise.

    With those of a new network, activations shrink from layer to layer until
    they are denormal numbers, on which some processors are slow.
    """
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm)
             and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    # Two images: BN cannot train on a single value of each channel.
    noise = torch.randn(2, *images.shape[1:],
                        generator=torch.Generator().manual_seed(1)).to(
                            next(network.parameters()).device)
    # No search for the fastest algorithms for this batch.
    searches = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        with torch.no_grad():
            run_network(network, noise)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # the run that follows says it in better words
        pass
    finally:
        torch.backends.cudnn.benchmark = searches
        network.eval()
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum


def _convert(network: nn.Module, batches: list[Batch],
             inputs: InputConfig) -> list[Batch]:
    """Set precision and memory order of the network and of its input."""
    layout = (torch.channels_last if inputs.channels_last else
              torch.contiguous_format)
    dtype = DTYPES[inputs.dtype] if inputs.part == 'backbone' else None
    network.to(torch.device(inputs.device), dtype)
    if inputs.channels_last:
        network.to(memory_format=layout)
    return [(images.to(inputs.device, dtype).contiguous(memory_format=layout),
             samples) for images, samples in batches]
