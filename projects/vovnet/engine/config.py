"""Load and save configs."""
import os
import traceback
from pathlib import Path

from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.utils import is_installed

from ..utils.errors import UserError

# The checkout, if this is one, and the configs installed for mim.
_ROOTS = Path(__file__).parents[3], Path(__file__).parents[1] / '.mim'


def load_config(path: str, options: dict | None = None) -> Config:
    """Load a config file.

    Args:
        path: Relative to the current directory or else to the root of the
            repository (``configs/...``), or a config of an installed package
            (``mmdet::retinanet/retinanet_r50_fpn_1x_coco.py``).
        options: Values of ``--cfg-options``, merged into the config.

    Raises:
        UserError: If there is no such file, or the file or an option is
            wrong.
    """
    if '::' in path:
        file = _find_package_config(path)
    else:
        places = Path(path), *(root / path for root in _ROOTS)
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            raise UserError(f'config {path}: no such file; check the path')
    try:
        cfg = Config.fromfile(str(file))
    except Exception as error:  # a config is code, and may fail in any way
        line = max((f'{frame.filename}, line {frame.lineno}: '
                    for frame in traceback.extract_tb(error.__traceback__)
                    if frame.filename == str(file.resolve())), default='')
        raise UserError(f'config {file}: {line}{type(error).__name__}: '
                        f'{error}') from error
    try:
        cfg.merge_from_dict(options or {})
    except Exception as error:
        raise UserError(
            f'--cfg-options: do not fit config {file}: {error}') from error
    return cfg


def _find_package_config(path: str) -> Path:
    package, _, file = path.partition('::')
    # MMEngine would install a missing package.
    if not is_installed(package) or '/' not in file:
        raise UserError(f'config {path}: write it as mmdet::folder/file.py, '
                        'naming an installed package')
    try:
        return Path(get_config(path).filename)
    except Exception as error:  # a config is code, and may fail in any way
        raise UserError(f'config {path}: {error}; check the path') from error


def save_config(cfg: Config, path: str) -> None:
    """Write a config, with everything it inherits, to a file.

    Raises:
        UserError: If ``path`` does not end in .py, .json, .yml or .yaml.
    """
    if not path.endswith(('.py', '.json', '.yml', '.yaml')):
        raise UserError(f'{path}: end the name in .py, .json or .yml')
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    cfg.dump(path)


def create_timm_config(name: str) -> Config:
    """Create a config of a timm network as a backbone, with random weights.

    Args:
        name: timm's name, such as ``ese_vovnet39b``.

    Returns:
        A config of mmpretrain's ``TIMMBackbone`` that outputs the stages from
        stride 4 on, to be built with ``part='backbone'``.

    Raises:
        UserError: If timm is not installed or has no such network.
    """
    if not is_installed('timm'):
        raise UserError(f'--timm {name}: timm is not installed; run `pip '
                        'install timm`')
    import timm
    if not timm.is_model(name):
        similar = ', '.join(timm.list_models(f'*{name[-8:]}*')[:5])
        remedy = f'; similar ones: {similar}' if similar else ''
        raise UserError(f'--timm {name}: timm has no such network{remedy}')
    backbone = dict(type='TIMMBackbone', model_name=name, features_only=True,
                    out_indices=(1, 2, 3, 4))
    return Config(
        dict(default_scope='mmpretrain',
             model=dict(type='ImageClassifier', backbone=backbone)),
        cfg_text=' ', filename=f'timm {name}')
