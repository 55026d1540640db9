"""Weights that others have published: where they are and what they expect.

Sources: the authors' READMEs (stigma0617/VoVNet.pytorch@039d9dc,
vov-net/VoVNet-Detectron@0176f70, youngwanLEE/CenterMask@72147e8,
youngwanLEE/vovnet-detectron2@b81c813), timm's model pages, pytorchcv 0.0.74
(``model_metainfos.csv``), gau-nernst/vision-toolbox@9586d5b, exiawsh/
StreamPETR and TRI-ML/dd3d. The addresses have not been tried; the Dropbox ones
are reported dead (403).
"""
import os
import re
from typing import NamedTuple
from urllib.parse import urlparse

from .download import get_cache_name
from .normalization import Normalization

_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
IMAGENET = Normalization(_MEAN, _STD, bgr=False)
IMAGENET_BGR = Normalization(_MEAN[::-1], _STD[::-1], bgr=True)
HALF = Normalization((127.5, ) * 3, (127.5, ) * 3, bgr=False)
UNIT = Normalization((0., ) * 3, (255., ) * 3, bgr=False)
DETECTRON2 = Normalization(_MEAN[::-1], (1., ) * 3, bgr=True)
MASKRCNN_BENCHMARK = Normalization(
    (102.9801, 115.9465, 122.7717), (1., ) * 3, bgr=True)


class KnownWeights(NamedTuple):
    """A published file of weights.

    Attributes:
        url: Its address, or ``timm://NAME``.
        license: Of the weights, or of the repository that publishes them.
        normalization: Of the images; None for the default of the file's key
            map.
        checksum: As for :func:`~vovnet.checkpoints.download.fetch`.
        format: Library that the detector is of, for a detector's weights.
        config: Config that builds the detector, for a detector's weights.
    """
    url: str
    license: str
    normalization: Normalization | None = None
    checksum: str = ''
    format: str = ''
    config: str = ''


def _build(owner: str, address: str, license: str,
           normalization: Normalization | None, *files: str,
           checksum: str = '') -> dict[str, KnownWeights]:
    """Build the entries of files that have all but their names in common."""
    return {f'{owner}/{_shorten(file)}': KnownWeights(
        address.format(file), license, normalization, checksum)
        for file in files}


def _shorten(file: str) -> str:
    """Return a file's name without folder, endings, error rate and hash."""
    name = re.sub(r'\.(pth|tar|zip)\b', '', os.path.basename(file))
    return re.sub(r'(-\d{4})?-[0-9a-f]{8}$', '', name)


def _get_file_name(source: str) -> str:
    return os.path.basename(urlparse(source).path or source)


_GITHUB = 'https://github.com/'
_CV = _GITHUB + 'osmr/imgclsmob/releases/download/{}'
_VISION_TOOLBOX = (
    _GITHUB + 'gau-nernst/vision-toolbox/releases/download/v0.0.1/{}')
_DROPBOX = 'https://www.dropbox.com/s/{}?dl=1'
_DL_DROPBOX = 'https://dl.dropbox.com/s/{}?dl=1'
_NO_LICENSE = 'not stated'

KNOWN_WEIGHTS = {
    **_build('timm', 'timm://{}', 'Apache-2.0', IMAGENET,
             'ese_vovnet19b_dw.ra_in1k', 'ese_vovnet39b.ra_in1k'),
    **_build('timm', 'timm://{}', 'Apache-2.0', HALF,
             'ese_vovnet57b.ra4_e3600_r256_in1k'),
    **_build('pytorchcv', _CV, 'MIT', IMAGENET,
             'v0.0.551/vovnet27s-0997-b7a5bf67.pth.zip',
             checksum='sha1:b7a5bf677bd3431bbed44b439fde7a01d699ace1'),
    **_build('pytorchcv', _CV, 'MIT', IMAGENET,
             'v0.0.493/vovnet39-0564-63bfa613.pth.zip',
             checksum='sha1:63bfa613870b37bd4fb5b71412e7875392aa4f66'),
    **_build('pytorchcv', _CV, 'MIT', IMAGENET,
             'v0.0.505/vovnet57-0518-c080e471.pth.zip',
             checksum='sha1:c080e47169a176043f298b1e909ddd8776d5aa76'),
    # The digits in the names are presumably of SHA-256, but nobody says so.
    # Two generations of files: their names for the norms differ.
    **_build('vision-toolbox', _VISION_TOOLBOX, _NO_LICENSE, None,
             'vovnet27_slim-dd43306a.pth', 'vovnet39-4c79d629.pth',
             'vovnet57-ecb9cc34.pth', 'vovnet19_slim_ese-f8075640.pth',
             'vovnet19_ese-a077657e.pth', 'vovnet39_ese-9ce81b0d.pth',
             'vovnet57_ese-ae1a7f89.pth', 'vovnet99_ese-713f3062.pth'),
    **_build('vision-toolbox-2022', _VISION_TOOLBOX, _NO_LICENSE, None,
             'vovnet27_slim-79617b9c.pth', 'vovnet39-ced4435d.pth',
             'vovnet57-9929476e.pth', 'vovnet19_slim_ese-446e2ae9.pth',
             'vovnet19_ese-4410fc5f.pth', 'vovnet39_ese-b73bdbe9.pth',
             'vovnet57_ese-630a88d1.pth', 'vovnet99_ese-56fd52f5.pth'),
    **_build('authors', _DL_DROPBOX, _NO_LICENSE, IMAGENET,
             '1lnzsgnixd8gjra/vovnet39_torchvision.pth',
             '6bfu9gstbwfw31m/vovnet57_torchvision.pth'),
    **_build('authors', _DL_DROPBOX, 'MIT', MASKRCNN_BENCHMARK,
             's7f4vyfybyc9qpr/vovnet39_statedict_norm.pth',
             'b826phjle6kbamu/vovnet57_statedict_norm.pth',
             've1h1ol2ge7yfta/vovnet75_statedict_norm.pth.tar',
             'qtly316zv1isn0t/vovnet93_statedict_norm.pth.tar'),
    **_build('authors', _DL_DROPBOX, 'BSD-2-Clause', MASKRCNN_BENCHMARK,
             'f5db5r6jjia2wj8/vovnet19-ese-statedict.pth',
             '8rhfcw53hc49k5x/vovnet39_ese_state_dict.pth',
             'vci2ih0nq3t3lu4/vovnet57_ese_state_dict.pth',
             '3wflmwz0wx50ywt/vovnet99_ese_state_dict.pth'),
    **_build('authors', _DROPBOX, 'CC BY-NC 4.0', DETECTRON2,
             'f3s7ospitqoals1/vovnet19_ese_slim_dw_detectron2.pth',
             '8h5ybmi4ftbcom0/vovnet19_ese_slim_detectron2.pth',
             '9awvl0mxye3nqz1/vovnet19_ese_dw_detectron2.pth',
             'rptgw6stppbiw1u/vovnet19_ese_detectron2.pth',
             'q98pypf96rhtd8y/vovnet39_ese_detectron2.pth',
             '8xl0cb3jj51f45a/vovnet57_ese_detectron2.pth',
             '1mlv31coewx8trd/vovnet99_ese_detectron2.pth'),
    **_build('dd3d', 'https://tri-ml-public.s3.amazonaws.com/github/dd3d/'
             'pretrained/{}', _NO_LICENSE, IMAGENET_BGR,
             'depth_pretrained_v99-3jlw0p36-20210423_010520-'
             'model_final-remapped.pth'),
    **_build('petr', _GITHUB + 'exiawsh/storage/releases/download/v1.0/{}',
             _NO_LICENSE, IMAGENET_BGR,
             'fcos3d_vovnet_imgbackbone-remapped.pth', 'dd3d_det_final.pth'),
    **_build('mmdet3d', 'https://download.openmmlab.com/mmdetection3d/'
             'v1.1.0_models/petr/{}', 'Apache-2.0', IMAGENET_BGR,
             'petr_vovnet_gridmask_p4_800x320-e2191752.pth',
             checksum='e2191752'),
}

# By the file's name, at its address and in the cache.
_NORMALIZATION_BY_FILE = {
    name: entry.normalization
    for entry in KNOWN_WEIGHTS.values() if entry.normalization
    for name in (_get_file_name(entry.url), get_cache_name(entry.url))}


def find_normalization(source: str, scheme: str, prefix: str,
                       arch: str | dict, ese: str | None
                       ) -> Normalization | None:
    """Tell how the images were normalized that weights were trained on.

    Args:
        source: Path or URL of the file, which may be a known one.
        scheme: Key map of its names.
        prefix: Prefix of its names.
        arch: Architecture.
        ese: Which blocks have eSE.
    """
    return _NORMALIZATION_BY_FILE.get(
        _get_file_name(source)) or get_default_normalization(
            scheme, prefix, arch, ese)


def get_default_normalization(scheme: str, prefix: str, arch: str | dict,
                              ese: str | None) -> Normalization | None:
    """Tell how the libraries with this key map normalize images.

    vision-toolbox's is inferred: its training code had mean and std 0.5 until
    2022-02-20, 0 and 1 afterwards, and its eSE weights are the older ones.
    """
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
