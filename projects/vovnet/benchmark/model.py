"""The networks of a benchmark, with weights and with something to look at.

Own work on mmdet's and mmpretrain's parts. What is timed is the network on
prepared input: reading, resizing and normalising images is not.
"""
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from mmcv.transforms import Compose
from mmdet.models.detectors import BaseDetector
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseModel
from mmengine.registry import DATASETS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..analysis.complexity import Cost, compute_config_complexity
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


@dataclass(frozen=True)
class Input:
    """What networks run on, and how.

    Attributes:
        part: 'detector' (the whole model, whatever it does) or 'backbone'.
        nms: Whether a detector decodes and suppresses its predictions too.
        shape: Height and width of the synthetic images, px, or one number
            for both; None for what each config's test pipeline makes.
        batch_size: Images of a run.
        data: None for noise; a folder, an image or a pattern; or
            :data:`TEST_SET` for the config's own test images.
        num_images: How many of these, at most.
        device: As torch names it.
        dtype: A name of :data:`DTYPES`. A backbone's weights and input are
            converted; whole models run under autocast, as mmengine's
            ``--amp`` does it.
        channels_last: Whether channels are the fastest dimension in memory.
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

    @property
    def work(self) -> str:
        """What is timed, in words."""
        if self.part == 'backbone':
            return 'backbone alone'
        return ('whole model, its predictions included (decoding and NMS)'
                if self.nms else 'whole model, without decoding and NMS')


class Subject:
    """A network that runs on one batch after the other.

    Args:
        cfg (Config): A detector's or a classifier's.
        how (Input): The input.
        checkpoint (str, optional): Weights of the whole model. Without them
            they are random, and the statistics of BN are those of noise, so
            that activations keep their size through all layers.
        mode (str, optional): A name of :data:`vovnet.deploy.optimize.modes.MODES`,
            which then sets precision and memory order.

    Attributes:
        network (nn.Module): In eval mode, on its device; empty if another
            runtime has it.
        dtype (str): A name of :data:`DTYPES`.
        foreign (bool): Whether others than torch's parameters hold the
            weights: oneDNN, compiled code, another runtime.
        difference (float | None): Of the first batch's maps in this mode from
            those of the plain network.
        shapes (Counter): How many batches there are of each (N, C, H, W).
        tensors (list[Tensor]): The input.
        batch (int): The number of the batch that was run last.
        num_batches (int): How many there are.

    Raises:
        UserError: If the config has no backbone, the checkpoint is another
            model's, there are too few images, or the network cannot run on
            them.
    """

    def __init__(self, cfg: Config, how: Input,
                 checkpoint: str | None = None,
                 mode: str | None = None) -> None:
        self.how, self._device = how, torch.device(how.device)
        self.network = (load_network(cfg, checkpoint, how.part) if checkpoint
                        else build_network(cfg, how.part))
        self._batches = (_pictures(cfg, how) if how.data else
                         _noise(cfg, how, self.network))
        self.num_batches = len(self._batches)
        self.network.to(self._device).eval()
        if checkpoint is None:
            _set_statistics(self.network, self._batches[0][0])
        self._place()
        self.tensors = [images for images, _ in self._batches]
        self.shapes = Counter(tuple(t.shape) for t in self.tensors)
        self.batch = -1
        self.dtype, self.foreign, self.difference = how.dtype, False, None
        self._runtime = None
        if mode:
            self._optimise(mode)
        try:
            self()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).split('\n')
            raise UserError(
                f'config {cfg.filename}: {type(self.network).__name__} '
                f'cannot run on {how.device} in {how.dtype} on images of '
                f'shape {"x".join(map(str, self.tensors[0].shape))} '
                f'({reason[0]}); try another --shape, --nms out or --part '
                'backbone') from error

    def _place(self) -> None:
        how = self.how
        layout = dict(memory_format=torch.channels_last
                      if how.channels_last else torch.contiguous_format)
        dtype = DTYPES[how.dtype] if how.part == 'backbone' else None
        self.network.to(self._device, dtype)
        if how.channels_last:
            self.network.to(**layout)
        self._batches = [
            (images.to(self._device, dtype).contiguous(**layout), samples)
            for images, samples in self._batches]
        self._autocast = nullcontext()
        if how.part == 'detector' and how.dtype != 'fp32':
            self._autocast = torch.autocast(
                self._device.type, DTYPES[how.dtype])

    def _optimise(self, mode: str) -> None:
        found, (images, samples) = MODES[mode], self._batches[0]
        with torch.no_grad():
            plain = run_network(self.network, images, samples)
            if found.runtime:
                self._runtime = load_runtime(mode, self.network, self.tensors)
                self.network, result = nn.Module(), self._runtime(images)
            else:
                self.network = optimize(self.network, mode, images)
                result = run_network(self.network, images, samples)
        self.difference = compute_difference(result, plain)
        self.dtype = found.dtype
        # A graph's replay allocates nothing: its maps are not seen either.
        self.foreign = bool(
            found.runtime or found.compile or found.graph or (
                found.fold and self._device.type == 'cpu'))

    def __call__(self) -> Any:
        """Run on the next batch, without gradients."""
        self.batch = (self.batch + 1) % self.num_batches
        images, samples = self._batches[self.batch]
        # As MMEngine tests, and as what is compiled was compiled.
        with torch.no_grad(), self._autocast:
            if self._runtime:
                return self._runtime(images)
            if not isinstance(self.network, BaseModel):
                return self.network(images)
            if not self.how.nms:
                return run_network(self.network, images, samples)
            # Predictions are added to the samples: these are used once.
            samples = samples and [sample.new() for sample in samples]
            return self.network(images, samples, mode='predict')

    def detections(self) -> float | None:
        """Mean number of boxes per image that NMS leaves; None without."""
        if not (isinstance(self.network, BaseDetector) and self.how.nms):
            return None
        found = [len(sample.pred_instances)
                 for _ in self._batches for sample in self()]
        return sum(found) / len(found)


def subject_cost(cfg: Config, subject: Subject
                 ) -> tuple[Cost | None, list[str]]:
    """Count what a subject costs for one image.

    Args:
        cfg (Config): Its config.
        subject (Subject): Its batches give the sizes.

    Returns:
        tuple: The mean over the batches, or None if this network cannot be
        counted, and what a reader has to know.
    """
    try:
        counts = {shape: compute_config_complexity(cfg, shape[2:], subject.how.part)
                  for shape in subject.shapes}
    except UserError as error:
        return None, [f'not counted: {error}']
    batches = sum(subject.shapes.values())
    first = next(iter(counts.values()))
    return Cost(first.total.params, *(
        sum(counts[shape].total[i] * n / batches
            for shape, n in subject.shapes.items())
        for i in range(1, len(Cost._fields)))), list(first.notes)


def _noise(cfg: Config, how: Input, model: nn.Module) -> list[tuple]:
    _, *shape = get_input_shape(cfg, how.shape, how.part)
    images = torch.randn(how.batch_size, *shape,
                         generator=torch.Generator().manual_seed(0))
    samples = isinstance(model, BaseDetector) and create_placeholder_samples(images)
    return [(images, samples or None)]


def _pictures(cfg: Config, how: Input) -> list[tuple]:
    """Batches of real images, as the model's data preprocessor makes them."""
    if how.data == TEST_SET:
        if 'test_dataloader' not in cfg:
            raise UserError(f'config {cfg.filename}: has no test_dataloader; '
                            'give --data a folder of images')
        check_datasets(cfg, ['test'])
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
        items = [dataset[i] for i in sample_evenly(len(dataset), how.num_images)]
    else:
        pipeline = Compose([
            step for step in get_test_pipeline_cfg(cfg.copy())
            if not str(step['type']).endswith('Annotations')])
        _, files = find_images(how.data)
        items = [pipeline(dict(img_path=str(files[i]), img_id=i))
                 for i in sample_evenly(len(files), how.num_images)]
    batches, prepare = [], build_network(cfg).data_preprocessor
    for i in range(0, len(items) - how.batch_size + 1, how.batch_size):
        batch = prepare(pseudo_collate(items[i:i + how.batch_size]))
        batches.append((batch['inputs'], batch.get('data_samples')))
    if not batches:
        raise UserError(f'--data {how.data}: {len(items)} images are fewer '
                        f'than --batch-size {how.batch_size}')
    return batches


def _set_statistics(network: nn.Module, images: Tensor) -> None:
    """Set the statistics of BN from noise.

    With those that a new network has, activations shrink from layer to layer
    until they are denormal numbers, on which some processors are slow.
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
