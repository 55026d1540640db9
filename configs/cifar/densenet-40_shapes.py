# The study of the VoVNet paper's section 3.2 at a reduced scale, for a CPU:
# ten classes of generated pictures in place of CIFAR-10, 2000 of them in place
# of 50000, 8 epochs in place of 300, and AdamW with one cosine and 16 pictures
# a step, which gets somewhere in so little time. Network and augmentation are
# those of densenet-40_1xb64_cifar10.py.
#   python tools/dataset_converters/make_shape_folders.py data/shapes_ten \
#       --size 32 --classes ten --num-train 200 --num-val 100
_base_ = [
    '../_base_/models/densenet-40_classifier.py',
    '../_base_/datasets/shapes_ten.py', '../_base_/schedules/adamw_small.py',
    '../_base_/classification_runtime.py'
]

# 8 epochs x 2000 pictures / 16 = 1000 iterations.
max_epochs = 8
train_cfg = dict(max_epochs=max_epochs, val_interval=4)
param_scheduler = _base_.param_scheduler
param_scheduler[1].end = max_epochs
# adamw_small.py's rate is for 8 pictures a step.
optim_wrapper = dict(optimizer=dict(lr=4e-3))
auto_scale_lr = dict(base_batch_size=16)
default_hooks = dict(logger=dict(interval=25))
custom_hooks = [dict(type='vovnet.engine.ChannelsLastHook')]
randomness = dict(seed=0)
