"""Weights that others have published, and how to get them.

Sources: the authors' READMEs (stigma0617/VoVNet.pytorch@039d9dc,
vov-net/VoVNet-Detectron@0176f70, youngwanLEE/CenterMask@72147e8,
youngwanLEE/vovnet-detectron2@b81c813), timm's model pages, pytorchcv 0.0.74
(``model_metainfos.csv``), gau-nernst/vision-toolbox@9586d5b, exiawsh/
StreamPETR and TRI-ML/dd3d. None of the addresses could be tried when this was
written; the Dropbox ones have been reported dead (403).
"""
import os
import re
from typing import NamedTuple
from urllib.parse import urlparse

from .download import cache_name
from .normalization import Normalization

_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
IMAGENET = Normalization(_MEAN, _STD, bgr=False)
IMAGENET_BGR = Normalization(_MEAN[::-1], _STD[::-1], bgr=True)
HALF = Normalization((127.5, ) * 3, (127.5, ) * 3, bgr=False)
UNIT = Normalization((0., ) * 3, (255., ) * 3, bgr=False)
DETECTRON2 = Normalization(_MEAN[::-1], (1., ) * 3, bgr=True)
MASKRCNN_BENCHMARK = Normalization(
    (102.9801, 115.9465, 122.7717), (1., ) * 3, bgr=True)


class Published(NamedTuple):
    """A file of weights.

    Attributes:
        url: Its address, or ``timm://NAME``.
        licence: Of the weights, or of the repository that publishes them.
        normalization: Of the images; None where :func:`normalization` knows
            by the scheme.
        checksum: As for :func:`~vovnet.checkpoints.download.fetch`.
        format: For a detector's, the library whose names it has.
        config: For a detector's, the config that builds the detector.
    """
    url: str
    licence: str
    normalization: Normalization | None = None
    checksum: str = ''
    format: str = ''
    config: str = ''


def _files(owner: str, address: str, licence: str,
           normalization: Normalization | None, *files: str,
           checksum: str = '') -> dict[str, Published]:
    """Entries that share everything but their file."""
    return {f'{owner}/{_short(file)}': Published(
        address.format(file), licence, normalization, checksum)
        for file in files}


def _short(file: str) -> str:
    """A file's name without folder, endings, error rate and hash."""
    name = re.sub(r'\.(pth|tar|zip)\b', '', os.path.basename(file))
    return re.sub(r'(-\d{4})?-[0-9a-f]{8}$', '', name)


_GITHUB = 'https://github.com/'
_CV = _GITHUB + 'osmr/imgclsmob/releases/download/{}'
_VISION_TOOLBOX = (
    _GITHUB + 'gau-nernst/vision-toolbox/releases/download/v0.0.1/{}')
_DROPBOX = 'https://www.dropbox.com/s/{}?dl=1'
_DL_DROPBOX = 'https://dl.dropbox.com/s/{}?dl=1'
_NO_LICENCE = 'not stated'

PUBLISHED = {
    **_files('timm', 'timm://{}', 'Apache-2.0', IMAGENET,
             'ese_vovnet19b_dw.ra_in1k', 'ese_vovnet39b.ra_in1k'),
    **_files('timm', 'timm://{}', 'Apache-2.0', HALF,
             'ese_vovnet57b.ra4_e3600_r256_in1k'),
    **_files('pytorchcv', _CV, 'MIT', IMAGENET,
             'v0.0.551/vovnet27s-0997-b7a5bf67.pth.zip',
             checksum='sha1:b7a5bf677bd3431bbed44b439fde7a01d699ace1'),
    **_files('pytorchcv', _CV, 'MIT', IMAGENET,
             'v0.0.493/vovnet39-0564-63bfa613.pth.zip',
             checksum='sha1:63bfa613870b37bd4fb5b71412e7875392aa4f66'),
    **_files('pytorchcv', _CV, 'MIT', IMAGENET,
             'v0.0.505/vovnet57-0518-c080e471.pth.zip',
             checksum='sha1:c080e47169a176043f298b1e909ddd8776d5aa76'),
    # The digits in the names are presumably of SHA-256, but nobody says so.
    # Two generations of files: their names for the norms differ.
    **_files('vision-toolbox', _VISION_TOOLBOX, _NO_LICENCE, None,
             'vovnet27_slim-dd43306a.pth', 'vovnet39-4c79d629.pth',
             'vovnet57-ecb9cc34.pth', 'vovnet19_slim_ese-f8075640.pth',
             'vovnet19_ese-a077657e.pth', 'vovnet39_ese-9ce81b0d.pth',
             'vovnet57_ese-ae1a7f89.pth', 'vovnet99_ese-713f3062.pth'),
    **_files('vision-toolbox-2022', _VISION_TOOLBOX, _NO_LICENCE, None,
             'vovnet27_slim-79617b9c.pth', 'vovnet39-ced4435d.pth',
             'vovnet57-9929476e.pth', 'vovnet19_slim_ese-446e2ae9.pth',
             'vovnet19_ese-4410fc5f.pth', 'vovnet39_ese-b73bdbe9.pth',
             'vovnet57_ese-630a88d1.pth', 'vovnet99_ese-56fd52f5.pth'),
    **_files('authors', _DL_DROPBOX, _NO_LICENCE, IMAGENET,
             '1lnzsgnixd8gjra/vovnet39_torchvision.pth',
             '6bfu9gstbwfw31m/vovnet57_torchvision.pth'),
    **_files('authors', _DL_DROPBOX, 'MIT', MASKRCNN_BENCHMARK,
             's7f4vyfybyc9qpr/vovnet39_statedict_norm.pth',
             'b826phjle6kbamu/vovnet57_statedict_norm.pth',
             've1h1ol2ge7yfta/vovnet75_statedict_norm.pth.tar',
             'qtly316zv1isn0t/vovnet93_statedict_norm.pth.tar'),
    **_files('authors', _DL_DROPBOX, 'BSD-2-Clause', MASKRCNN_BENCHMARK,
             'f5db5r6jjia2wj8/vovnet19-ese-statedict.pth',
             '8rhfcw53hc49k5x/vovnet39_ese_state_dict.pth',
             'vci2ih0nq3t3lu4/vovnet57_ese_state_dict.pth',
             '3wflmwz0wx50ywt/vovnet99_ese_state_dict.pth'),
    **_files('authors', _DROPBOX, 'CC BY-NC 4.0', DETECTRON2,
             'f3s7ospitqoals1/vovnet19_ese_slim_dw_detectron2.pth',
             '8h5ybmi4ftbcom0/vovnet19_ese_slim_detectron2.pth',
             '9awvl0mxye3nqz1/vovnet19_ese_dw_detectron2.pth',
             'rptgw6stppbiw1u/vovnet19_ese_detectron2.pth',
             'q98pypf96rhtd8y/vovnet39_ese_detectron2.pth',
             '8xl0cb3jj51f45a/vovnet57_ese_detectron2.pth',
             '1mlv31coewx8trd/vovnet99_ese_detectron2.pth'),
    **_files('dd3d', 'https://tri-ml-public.s3.amazonaws.com/github/dd3d/'
             'pretrained/{}', _NO_LICENCE, IMAGENET_BGR,
             'depth_pretrained_v99-3jlw0p36-20210423_010520-'
             'model_final-remapped.pth'),
    **_files('petr', _GITHUB + 'exiawsh/storage/releases/download/v1.0/{}',
             _NO_LICENCE, IMAGENET_BGR,
             'fcos3d_vovnet_imgbackbone-remapped.pth', 'dd3d_det_final.pth'),
    **_files('mmdet3d', 'https://download.openmmlab.com/mmdetection3d/'
             'v1.1.0_models/petr/{}', 'Apache-2.0', IMAGENET_BGR,
             'petr_vovnet_gridmask_p4_800x320-e2191752.pth',
             checksum='e2191752'),
}


def normalization(source: str, scheme: str, prefix: str, arch: str | dict,
                  ese: str | None) -> Normalization | None:
    """How the images were normalised that weights were trained on.

    By the file's name where it is one of :data:`PUBLISHED`, as its address
    or the cache has it, else by what those who use its scheme do.

    Args:
        source: Path or address of the file.
        scheme: Its naming scheme.
        prefix: What stands before its names.
        arch: Its architecture.
        ese: Where its eSE sits.

    Returns:
        Normalization | None: None if nobody can tell. vision-toolbox's is
        inferred: its training code had mean and std 0.5 until 2022-02-20, 0
        and 1 afterwards, and its eSE weights are the older ones.
    """
    name = _file_name(source)
    for entry in PUBLISHED.values():
        if entry.normalization and name in (
                _file_name(entry.url), cache_name(entry.url)):
            return entry.normalization
    return customary(scheme, prefix, arch, ese)


def customary(scheme: str, prefix: str, arch: str | dict, ese: str | None
              ) -> Normalization | None:
    """How those who use a scheme normalise; see :func:`normalization`."""
    if scheme == 'timm':
        return HALF if arch == 'V2-57' else IMAGENET
    if scheme == 'pytorchcv':
        return IMAGENET
    if scheme.startswith('vision-toolbox'):
        return UNIT if ese == 'none' else HALF
    if scheme == 'authors':
        for part, found in (('img_backbone.', IMAGENET_BGR),
                            ('bottom_up.', DETECTRON2),
                            ('body.', MASKRCNN_BENCHMARK)):
            if prefix.endswith(part):
                return found
    return None


def _file_name(source: str) -> str:
    return os.path.basename(urlparse(source).path or source)
