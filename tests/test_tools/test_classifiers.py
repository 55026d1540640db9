"""The tools on mmpretrain's classifiers, and what comes of their weights."""
import json
import pickle
import re
import shutil

import vovnet  # noqa: F401  isort: skip  # first, for mmcv's operators
import cv2
import pytest
import timm
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from PIL import Image
from test_errors import error_line
from timm.data import create_transform, resolve_data_config
from tool_runs import ROOT, RUNTIME

from vovnet.checkpoints import load_file
from vovnet.datasets import draw_scene, make_shape_folders
from vovnet.engine import run
from vovnet.engine.config import load_config

CONFIG = '''
_base_ = {base!r}
arch = dict(
    stem_channels=(8, 8, 8), stage_channels=(8, 8, 8),
    aggregated_channels=(16, 16, 16), num_blocks=(1, 1, 1), num_layers=2)
model = dict(
    type='ImageClassifier',
    backbone=dict(type='VoVNet', arch=arch, out_indices=(2, )),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=5, in_channels=16))
data_preprocessor = dict(
    num_classes=5, mean=[128.] * 3, std=[64.] * 3, to_rgb=True)
data = dict(
    type='CustomDataset', data_root={data!r}, pipeline=[
        dict(type='LoadImageFromFile'), dict(type='PackInputs')])
train_dataloader = dict(
    batch_size=5, num_workers=0, sampler=dict(type='DefaultSampler'),
    dataset=dict(**data, data_prefix='train'))
val_dataloader = dict(
    batch_size=5, num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(**data, data_prefix='val'))
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, ))
test_evaluator = val_evaluator
train_cfg = dict(by_epoch=True, max_epochs=1)
val_cfg = test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
auto_scale_lr = dict(base_batch_size=5)
default_hooks = dict(logger=dict(interval=1))
randomness = dict(seed=7)
'''
BASE = RUNTIME.replace('default_runtime', 'classification_runtime')


@pytest.fixture(scope='session')
def folders(tmp_path_factory):
    """15 training and 10 validation pictures of five classes."""
    root = tmp_path_factory.mktemp('data') / 'folders'
    make_shape_folders(root, num_train=3, num_val=2, size=32)
    return root


def write(path, data, extra=''):
    path.write_text(CONFIG.format(base=BASE, data=str(data)) + extra)
    return path


@pytest.fixture(scope='session')
def classifier(tmp_path_factory, folders, run_tool):
    """One epoch of training: (config, work dir, what the tool printed)."""
    folder = tmp_path_factory.mktemp('classifier')
    config = write(folder / 'tiny.py', folders)
    done = run_tool(folder, 'tools/train.py', 'tiny.py')
    assert done.returncode == 0, done.stderr
    return config, folder / 'work_dirs/tiny', done


def accuracy(run):
    assert run.returncode == 0, run.stderr
    return float(re.findall(r'accuracy/top1: ([\d.]+)', run.stdout)[-1])


def test_testing_repeats_the_validation(classifier, run_tool, tmp_path):
    config, work_dir, trained = classifier
    assert 'eta:' in trained.stdout and 'loss:' in trained.stdout
    run = run_tool(tmp_path, 'tools/test.py', config,
                   work_dir / 'epoch_1.pth', '--out', 'out.pkl',
                   '--show-dir', 'pictures')
    assert accuracy(run) == accuracy(trained)
    with open(tmp_path / 'out.pkl', 'rb') as file:
        found = pickle.load(file)
    assert len(found) == 10
    right = sum(one['pred_label'].item() == one['gt_label'].item()
                for one in found)
    assert accuracy(run) == 10 * right
    pictures = list(tmp_path.glob('work_dirs/tiny/pictures/*.png'))
    assert len(pictures) == 10
    assert cv2.imread(str(pictures[0])) is not None


def test_test_time_augmentation(classifier, run_tool, tmp_path):
    config, work_dir, _ = classifier
    start = ['tools/test.py', config, work_dir / 'epoch_1.pth', '--tta']
    run = run_tool(tmp_path, *start, '--out', 'out.pkl')
    error_line(run_tool(tmp_path, *start, '--show-dir', 'x'), '--tta')
    # Scores of the picture and its mirror image, averaged.
    model = build(config, work_dir / 'epoch_1.pth')
    with open(tmp_path / 'out.pkl', 'rb') as file:
        found = pickle.load(file)
    assert accuracy(run) == 10 * sum(
        one['pred_score'].argmax() == one['gt_label'].item() for one in found)
    first = found[0]
    image = cv2.imread(first['img_path'])[..., ::-1].copy()
    x = (torch.from_numpy(image).permute(2, 0, 1)[None] - 128.) / 64
    with torch.inference_mode():
        scores = [model.head.fc(model.backbone(v)[0].mean((2, 3))).softmax(1)
                  for v in (x, x.flip(3))]
    torch.testing.assert_close(first['pred_score'], sum(scores)[0] / 2)


def test_other_classes_than_in_training(classifier, folders, run_tool,
                                        tmp_path):
    """mmpretrain numbers what folders it finds: others are other classes."""
    _, work_dir, _ = classifier
    other = shutil.copytree(folders, tmp_path / 'other')
    for split in ('train', 'val'):
        next((other / split).iterdir()).rename(other / split / 'zebra')
    config = write(tmp_path / 'other.py', other)
    line = error_line(
        run_tool(tmp_path, 'tools/test.py', config, work_dir / 'epoch_1.pth'),
        'epoch_1.pth: was trained on the classes')
    assert 'zebra' in line and 'the same classes' in line


def test_config_for_testing_alone(run_tool, tmp_path):
    config = ROOT / 'configs/imagenet/vovnetv2-39_timm_in1k.py'
    error_line(run_tool(tmp_path, 'tools/train.py', config),
               config.name, 'train_dataloader', 'for testing alone')


def build(config, checkpoint):
    from vovnet.engine.build import load_network
    return load_network(
        load_config(str(config)), str(checkpoint)).eval()


def test_training_goes_on(classifier, run_tool, tmp_path):
    """Two epochs equal one, a stop and another, bit for bit."""
    config, work_dir, _ = classifier
    half = shutil.copytree(work_dir, tmp_path / 'half')
    two = ['--cfg-options', 'train_cfg.max_epochs=2']
    for args in (['--work-dir', 'whole'], ['--work-dir', half, '--resume']):
        run = run_tool(tmp_path, 'tools/train.py', config, *args, *two)
        assert run.returncode == 0, run.stderr
    whole, resumed = (load_file(tmp_path / name / 'epoch_2.pth')['state_dict']
                      for name in ('whole', 'half'))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_two_processes(classifier, run_tool, run_two, tmp_path):
    run, _ = run_two(tmp_path, 'tools/train.py', classifier[0])
    tested = run_tool(tmp_path, 'tools/test.py', classifier[0],
                      tmp_path / 'work_dirs/tiny/epoch_1.pth')
    assert accuracy(run) == accuracy(tested)
    # 15 pictures, 5 at a time in each of two processes.
    assert '[1][2/2]' in run.stdout
    assert (tmp_path / 'work_dirs/tiny/epoch_1.pth').is_file()


STUDY = 'tools/analysis_tools/cifar_study.py'


def test_study(classifier, run_tool, tmp_path):
    config, work_dir, trained = classifier
    run = run_tool(
        tmp_path, STUDY, config, '--checkpoints', work_dir / 'epoch_1.pth',
        '--names', 'mine', '--out-dir', 'here', '--device', 'cpu',
        '--repeats', '1', '--seconds', '0.01', '--batch-size', '3')
    assert accuracy(run) == accuracy(trained)
    stored = json.loads((tmp_path / 'here/study.json').read_text())
    result, = stored['results']
    assert result['accuracy'] == pytest.approx(accuracy(trained))
    assert stored['conditions']['images of a step'] == '3'
    table = (tmp_path / 'here/study.md').read_text()
    assert f'| accuracy, % | {result["accuracy"]:.1f} |' in table
    for name in ('study.md', 'study.json', 'figure2.png', 'figure2.csv'):
        assert (tmp_path / 'here' / name).stat().st_size > 100
        assert f'here/{name}' in run.stdout.splitlines()


@pytest.mark.parametrize('args, parts', [
    (['a.py', 'b.py', '--checkpoints', 'a.pth'],
     ['2 configs, 1 --checkpoints', 'one of each']),
    ([], ['0 configs']),
    (['a.py', '--checkpoints', 'a.pth'], ['a.py', 'no such file']),
])
def test_mistakes_in_a_study(args, parts, run_tool, tmp_path):
    error_line(run_tool(tmp_path, STUDY, *args), *parts)


# -- mistakes ---------------------------------------------------------------


def test_wrong_number_of_classes(classifier, run_tool, tmp_path):
    """Of what is found in the data, this: see test_classification_data."""
    run = run_tool(tmp_path, 'tools/train.py', classifier[0], '--cfg-options',
                   'model.head.num_classes=7')
    error_line(run, 'model.head.num_classes is 7', 'set it to 5')
    assert not list(tmp_path.glob('work_dirs/**/*.log'))


@pytest.mark.parametrize('workers', [0, 1])
def test_corrupt_image(workers, folders, run_tool, tmp_path):
    data = shutil.copytree(folders, tmp_path / 'data')
    config = write(tmp_path / 'c.py', data)
    image = sorted((data / 'train/star').iterdir())[1]
    image.write_bytes(image.read_bytes()[:400])
    run = run_tool(tmp_path, 'tools/train.py', config, '--cfg-options',
                   f'train_dataloader.num_workers={workers}')
    error_line(run, image, 'cannot be read as an image')


def test_checkpoint_of_a_detector(trained, classifier, run_tool, tmp_path):
    """And the other way round: the two libraries' models are told apart."""
    for config, weights in ((classifier[0], trained[1]),
                            (trained[0], classifier[1])):
        run = run_tool(tmp_path, 'tools/test.py', config,
                       weights / 'epoch_1.pth')
        error_line(run, weights / 'epoch_1.pth', 'is of another model')


# -- weights ----------------------------------------------------------------


@HOOKS.register_module()
class Watch(Hook):
    """Keeps the backbone's tensors as they are before the first step."""

    all = []

    def __init__(self):
        self.all.append(self)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 0:
            self.seen = {key: value.clone() for key, value in
                         runner.model.backbone.state_dict().items()}
            self.scope = runner.default_scope.scope_name


def crops(root):
    """The shapes of scenes, each cut out and put into its class's folder."""
    for split, count in (('train', 10), ('val', 30)):
        for i in range(count):
            scene = draw_scene(split, i, 64)
            for k, instance in enumerate(scene.instances()):
                x, y, w, h = instance['bbox']
                folder = root / split / instance['name']
                folder.mkdir(parents=True, exist_ok=True)
                crop = scene.image[y:y + h, x:x + w]
                cv2.imwrite(str(folder / f'{i}_{k}.jpg'),
                            cv2.resize(crop, (32, 32)))
    return root


def test_pretrain_and_fine_tune(write_config, tmp_path, monkeypatch):
    """A classifier's checkpoint as init_cfg of a detector, in one process."""
    monkeypatch.chdir(tmp_path)
    config = write(tmp_path / 'classifier.py', crops(tmp_path / 'crops'))

    def train(path, extra=None):
        cfg = load_config(str(path), extra)
        cfg.work_dir, cfg.launcher = str(tmp_path / path.stem), 'none'
        cfg.custom_hooks = [dict(type='Watch')]
        return run.train(cfg)

    trained = train(config).model.state_dict()
    checkpoint = tmp_path / 'classifier/epoch_1.pth'
    saved = load_file(checkpoint)['state_dict']
    detector = write_config(tmp_path / 'detector.py')
    tuned = train(detector, {
        'model.backbone.init_cfg': dict(
            type='Pretrained', checkpoint=str(checkpoint)),
        'model.backbone.norm_eval': False,
        'model.data_preprocessor.bgr_to_rgb': True,  # as the classifier's
        'train_dataloader.dataset.indices': 4}).model
    first, second = Watch.all
    assert (first.scope, second.scope) == ('mmpretrain', 'mmdet')
    before = second.seen
    assert {f'backbone.{key}' for key in before} == {
        key for key in saved if key.startswith('backbone.')}
    for key, value in before.items():
        assert torch.equal(value, saved[f'backbone.{key}'])
        assert torch.equal(value, trained[f'backbone.{key}'])
    # They are not what the classifier, or a new detector, begins with.
    weights = [k for k in before if k.endswith('conv.weight')]
    assert not any(torch.equal(before[k], first.seen[k]) for k in weights)
    # And they learn from there.
    after = tuned.backbone.state_dict()
    assert not any(torch.equal(before[k], after[k]) for k in weights)


@pytest.mark.parametrize('recipe', ['8xb32', '8xb256-rsb-a2-300e'])
def test_recipes_of_imagenet(recipe, folders, run_tool, tmp_path):
    """As they are, on pictures in ImageNet's layout; then a test."""
    root = tmp_path / 'data/imagenet'
    (root / 'meta').mkdir(parents=True)
    for split in ('train', 'val'):
        (root / split).symlink_to(folders / split)
        files = sorted((folders / split).glob('*/*.jpg'))[::3]
        (root / f'meta/{split}.txt').write_text(''.join(
            f'{file.parent.name}/{file.name} {100 * i}\n'
            for i, file in enumerate(files)))
    config = f'configs/imagenet/vovnetv2-19-slim-dw_{recipe}_in1k.py'
    small = [f'{split}_dataloader.{key}' for split in ('train', 'val', 'test')
             for key in ('batch_size=3', 'num_workers=0')]
    small += ['train_cfg.max_epochs=1', 'default_hooks.logger.interval=1']
    run = run_tool(tmp_path, 'tools/train.py', config, '--cfg-options', *small)
    trained = accuracy(run)
    work_dir, = (tmp_path / 'work_dirs').iterdir()
    saved = load_file(work_dir / 'epoch_1.pth')
    raw = saved.get('ema_state_dict')
    assert (raw is not None) == ('rsb' in recipe)
    if raw:
        # What is tested, and given to a detector, is the average.
        key = 'backbone.stem.0.conv.weight'
        assert not torch.equal(saved['state_dict'][key], raw[f'module.{key}'])
    run = run_tool(tmp_path, 'tools/test.py', config,
                   work_dir / 'epoch_1.pth', '--cfg-options', *small)
    assert accuracy(run) == trained


@pytest.fixture
def imagenet(tmp_path):
    """Eight photographs in ImageNet's layout, to be labelled."""
    import matplotlib
    image = Image.open(f'{matplotlib.get_data_path()}/sample_data/'
                       'grace_hopper.jpg')
    (tmp_path / 'data/imagenet/val').mkdir(parents=True)
    (tmp_path / 'data/imagenet/meta').mkdir()
    for i in range(8):
        image.rotate(45 * i).resize((300, 360 - 20 * i)).save(
            tmp_path / f'data/imagenet/val/{i}.jpg')
    return tmp_path / 'data/imagenet'


def test_published_classifier(imagenet, run_tool, tmp_path):
    """Accuracy as timm's own network, and its own transform, has it."""
    torch.manual_seed(0)
    theirs = timm.create_model('ese_vovnet19b_dw').eval()
    for norm in theirs.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.uniform_(-.1, .1)
            norm.running_var.uniform_(.5, 1.5)
    torch.save(theirs.state_dict(), tmp_path / 'theirs.pth')
    transform = create_transform(**resolve_data_config(
        pretrained_cfg=timm.get_pretrained_cfg(
            'ese_vovnet19b_dw.ra_in1k').to_dict()))
    with torch.inference_mode():
        scores = theirs(torch.stack([
            transform(Image.open(imagenet / f'val/{i}.jpg'))
            for i in range(8)]))
    # Labels of which timm's network gets five right, and two more in five.
    ranked = scores.argsort(1, descending=True)
    ranks = [0, 0, 0, 0, 0, 1, 4, 5]
    (imagenet / 'meta/val.txt').write_text(''.join(
        f'{i}.jpg {ranked[i, rank]}\n' for i, rank in enumerate(ranks)))
    run = run_tool(tmp_path, 'tools/model_converters/vovnet_to_mmengine.py',
                   'theirs.pth', 'ours.pth', '--to', 'mmpretrain')
    assert run.returncode == 0, run.stderr
    run = run_tool(
        tmp_path, 'tools/test.py',
        'configs/imagenet/vovnetv2-19-dw_timm_in1k.py', 'ours.pth', '--out',
        'out.pkl', '--cfg-options', 'test_dataloader.num_workers=0')
    assert accuracy(run) == 62.5
    assert 'accuracy/top5: 87.5000' in run.stdout
    with open(tmp_path / 'out.pkl', 'rb') as file:
        ours = torch.stack([one['pred_score'] for one in pickle.load(file)])
    torch.testing.assert_close(ours, scores.softmax(1), rtol=1e-4, atol=1e-7)


def test_converting_a_backbone_alone(classifier, run_tool, tmp_path):
    weights = load_file(classifier[1] / 'epoch_1.pth')['state_dict']
    torch.save({key.removeprefix('backbone.'): value
                for key, value in weights.items() if 'head' not in key},
               tmp_path / 'backbone.pth')
    run = run_tool(tmp_path, 'tools/model_converters/vovnet_to_mmengine.py',
                   'backbone.pth', 'x.pth', '--to', 'mmpretrain')
    error_line(run, 'backbone.pth', 'without a classifier', 'mmengine')


def test_own_images(folders, run_tool, tmp_path):
    """The file that a user copies, used as docs/imagenet.md says."""
    data = shutil.copytree(folders, tmp_path / 'data')
    shutil.copytree(data / 'val', data / 'test')
    text = (ROOT / 'configs/custom/'
            'classifier_vovnet-27-slim_my-images.py').read_text()
    for name, value in dict(data_root=f'{data}/', num_classes=5, max_epochs=1,
                            num_workers=0, size=32).items():
        text, found = re.subn(rf'^{name} = .*$', f'{name} = {value!r}', text,
                              flags=re.M)
        assert found == 1, name
    (tmp_path / 'mine.py').write_text(
        text.replace("'../_base_", f"'{ROOT}/configs/_base_"))
    run = run_tool(tmp_path, 'tools/train.py', 'mine.py')
    trained = accuracy(run)
    best, = (tmp_path / 'work_dirs/mine').glob('best_accuracy_top1_*.pth')
    run = run_tool(tmp_path, 'tools/test.py', 'mine.py', best)
    assert accuracy(run) == trained
