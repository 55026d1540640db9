"""The module that stands in for ``mmcv._ext``: what it has and has not."""
import doctest
import inspect
import pickle

import mmcv.ops
import pytest
import torch
from mmcv.utils import collect_env, ext_loader
from mmengine.utils.dl_utils import mmcv_full_available

import vovnet_mmcv_ext
from vovnet.ops import backend

pytestmark = pytest.mark.usefixtures('only_torchvision')


@pytest.fixture
def ext():
    import mmcv._ext
    return mmcv._ext


def test_is_the_file_beside_the_package(ext):
    assert backend() == 'torchvision'
    assert ext.__file__ == vovnet_mmcv_ext.EXT_FILE
    assert ext_loader.check_ops_exist() and mmcv_full_available()


@pytest.mark.parametrize('call,name', [
    (lambda x: mmcv.ops.carafe(x, x, 1, 1, 1), 'carafe_forward'),
    (lambda x: mmcv.ops.RoIPool(1)(x, torch.zeros(1, 5)), 'roi_pool_forward'),
    (lambda x: mmcv.ops.box_iou_rotated(x.new_zeros(1, 5), x.new_zeros(1, 5)),
     'box_iou_rotated'),
])
def test_missing_operator_says_what_to_install(call, name):
    x = torch.zeros(1, 1, 3, 3)
    with pytest.raises(NotImplementedError) as info:
        call(x)
    message = str(info.value)
    assert f"'{name}'" in message and '\n' not in message
    assert 'MMCV_WITH_OPS=1 pip install --no-build-isolation' in message
    assert 'docs/install.md' in message


def test_answers_python_honestly(ext):
    for name in ('__path__', '__wrapped__', '__all__', '_private'):
        assert not hasattr(ext, name)
    with pytest.raises(AttributeError, match='_private'):
        ext._private  # noqa: B018
    assert not doctest.DocTestFinder().find(ext)[0].examples
    assert dict(inspect.getmembers(ext))['nms'] is ext.nms
    for function in (ext.nms, ext.carafe_forward):
        assert pickle.loads(pickle.dumps(function)) is function
    assert ext.carafe_forward.__name__ == 'carafe_forward'


def test_environment_reports_name_the_kernels():
    env = collect_env()
    assert 'torchvision' in env['MMCV Compiler']
    assert env['MMCV CUDA Compiler'] in (torch.version.cuda, 'not available')
