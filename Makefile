# The entrances. Everything runs in .venv, which `make setup` makes.

VENV := .venv/bin/python
# That of .venv once it is made, or else the first that is new enough.
PYTHON ?= $(or $(wildcard $(VENV)),$(shell for p in python3 python3.14 \
	python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	2>/dev/null && echo $$p && exit; done; echo python3))
# Threads that wait for each other leave a core that is wanted elsewhere soon:
# nothing lost on an idle machine, a half to nine tenths of the time on a busy.
export GOMP_SPINCOUNT ?= 10000
DEMO_CONFIG := configs/demo/retinanet_vovnet-27-slim_fpn_shapes.py
DEMO_DIR := work_dirs/demo
COMPARE_DIR := work_dirs/compare
DEMO_CHECKPOINT := $(DEMO_DIR)/epoch_3.pth

STUDY_DIR := work_dirs/study
STUDY_NETWORKS := densenet-40 osa-12-20 osa-5-43

# Where measurements on a GPU go. The dry run has a folder of its own.
DEVICE ?= cuda
GPU_SECONDS ?= 530
GPU_DIR ?= work_dirs/gpu$(if $(filter cpu,$(DEVICE)),-dry-run)
WHEELS_PYTHON ?= 3.12

.PHONY: help setup demo demo-clean compare table2 table4 study study-clean \
	gpu gpu-wheels gpu-page test lint matrix lock

help:
	@echo 'make demo   train, evaluate and draw a small detector (setup + 6 minutes)'
	@echo 'make compare  VoVNet beside ResNet and DenseNet: speed, memory, energy (setup + 3 minutes)'
	@echo 'make table2  the lightweight detectors of the paper, its figures beside them; make table4 the large ones'
	@echo 'make study  the paper'"'"'s dense and one-shot networks trained side by side, reduced (setup + at most 20 minutes)'
	@echo 'make gpu    everything that a GPU can show, in 9 minutes, without set-up (docs/gpu.md); DEVICE=cpu is the dry run'
	@echo 'make gpu-wheels  the packages to bring to a GPU without a registry, .wheels; make gpu-page  results as docs/gpu.md'
	@echo 'make test   lint and the whole test suite (setup + 8 to 14 minutes)'
	@echo 'make lint   style only'
	@echo 'make setup  the environment alone (2 to 4 minutes, 6 GB); TORCH=2.12.1 takes another torch, TORCH_INDEX=URL one for the CPU alone'
	@echo 'make matrix  the test suite on every Python at hand (30 minutes each); make lock  new versions of everything'

setup:
	@$(PYTHON) tools/misc/setup_env.py --torch '$(TORCH)' \
		--torch-index '$(TORCH_INDEX)'

demo: setup
	@echo 'demo: [1/4] the shapes data set, data/shapes (a few seconds)'
	@$(VENV) tools/dataset_converters/make_shapes.py data/shapes \
		--num-train 1400 --num-val 200
	@echo 'demo: [2/4] training on the CPU (usually 4 to 5 minutes on 2 cores)'
	@$(VENV) tools/train.py $(DEMO_CONFIG) --work-dir $(DEMO_DIR) --resume
	@echo 'demo: [3/4] evaluation (usually 15 seconds)'
	@$(VENV) tools/test.py $(DEMO_CONFIG) $(DEMO_CHECKPOINT) \
		--work-dir $(DEMO_DIR)/test
	@echo 'demo: [4/4] ground truth beside detections (usually 10 seconds)'
	@$(VENV) tools/analysis_tools/detection_sheet.py $(DEMO_CONFIG) \
		$(DEMO_CHECKPOINT) --out $(DEMO_DIR)/detections.png
	@echo
	@echo 'The data      data/shapes'
	@echo 'The detector  $(DEMO_CHECKPOINT)'
	@echo 'Its logs      $(DEMO_DIR)/ (TensorBoard: .venv/bin/tensorboard --logdir $(DEMO_DIR))'
	@echo 'The picture   $(DEMO_DIR)/detections.png'
	@echo 'Try it        .venv/bin/python demo/image_demo.py data/shapes/val $(DEMO_CONFIG) $(DEMO_CHECKPOINT)'
	@echo 'Start over    make demo-clean demo'

demo-clean:
	rm -rf $(DEMO_DIR) data/shapes

compare: setup
	@$(VENV) tools/analysis_tools/benchmark.py \
		configs/retinanet/retinanet_vovnet-39_fpn_1x_coco.py \
		configs/retinanet/retinanet_vovnet-57_fpn_1x_coco.py \
		mmdet::retinanet/retinanet_r50_fpn_1x_coco.py \
		mmdet::retinanet/retinanet_r101_fpn_1x_coco.py \
		mmpretrain::densenet/densenet201_4xb256_in1k.py \
		mmpretrain::densenet/densenet161_4xb256_in1k.py \
		--names VoVNet-39 VoVNet-57 ResNet-50 ResNet-101 DenseNet-201 \
		DenseNet-161 --part backbone --shape 320 --overwrite \
		--out $(COMPARE_DIR)/compare.md $(COMPARE_DIR)/compare.csv \
		$(COMPARE_DIR)/compare.json --plot $(COMPARE_DIR) $(ARGS)

# The paper's tables of detectors. Without decoding and NMS, which with random
# weights would work on thousands of boxes that a trained detector never has.
table2: setup
	@$(VENV) tools/analysis_tools/benchmark.py --paper table2 table3 \
		--nms out --overwrite --out $(COMPARE_DIR)/table2.md \
		$(COMPARE_DIR)/table2.json --plot $(COMPARE_DIR)/table2 $(ARGS)

table4: setup
	@$(VENV) tools/analysis_tools/benchmark.py --paper table4 \
		--nms out --overwrite --out $(COMPARE_DIR)/table4.md \
		$(COMPARE_DIR)/table4.json --plot $(COMPARE_DIR)/table4 $(ARGS)

# The CIFAR-10 study at a reduced scale. A network that is trained, in whole or
# in part, is not trained again: what was interrupted goes on.
study: setup
	@echo 'study: [1/3] ten classes of generated pictures, data/shapes_ten (usually 15 seconds)'
	@$(VENV) tools/dataset_converters/make_shape_folders.py \
		data/shapes_ten --size 32 --classes ten --num-train 200 \
		--num-val 100 $(STUDY_DATA_ARGS)
	@echo 'study: [2/3] training $(STUDY_NETWORKS)'
	@for name in $(STUDY_NETWORKS); do \
		$(VENV) tools/train.py configs/cifar/$${name}_shapes.py \
			--work-dir $(STUDY_DIR)/$$name --resume \
			$(STUDY_TRAIN_ARGS) || exit; \
	done
	@echo 'study: [3/3] accuracy, computation, time and memory, Figure 2'
	@$(VENV) tools/analysis_tools/cifar_study.py \
		$(STUDY_NETWORKS:%=configs/cifar/%_shapes.py) \
		--checkpoints $(foreach name,$(STUDY_NETWORKS),$$(cat $(STUDY_DIR)/$(name)/last_checkpoint)) \
		--names DenseNet-40 OSA-12/20 OSA-5/43 --out-dir $(STUDY_DIR) \
		--batch-size 64 $(ARGS)
	@echo 'Start over   make study-clean study'

study-clean:
	rm -rf $(STUDY_DIR) data/shapes_ten

# On a machine with one GPU; nothing is set up, and no registry is needed.
gpu:
	@$(PYTHON) tools/misc/gpu_session.py $(GPU_DIR) --device $(DEVICE) \
		--seconds $(GPU_SECONDS) $(ARGS)

# What `make gpu` takes where there is no registry: 12 MB, to be copied along.
gpu-wheels:
	@rm -rf .wheels
	@$(PYTHON) -m pip download -q --disable-pip-version-check --no-deps \
		--only-binary=:all: --implementation cp \
		--python-version $(WHEELS_PYTHON) \
		$(foreach n,5 12 17 24 27 28 31 34 35,--platform manylinux_2_$(n)_x86_64) \
		--platform manylinux2014_x86_64 --platform manylinux1_x86_64 \
		-d .wheels -c requirements/constraints.txt -r requirements/gpu.txt
	@du -sh .wheels

gpu-page: setup
	@$(VENV) tools/analysis_tools/gpu_page.py $(GPU_DIR)/results $(ARGS)

lint: setup
	@echo 'lint: ruff'
	@$(VENV) -m ruff check .

test: lint
	@echo 'test: the whole suite on 2 processes (usually 8 to 14 minutes on 2 cores)'
	@OMP_NUM_THREADS=1 $(VENV) -m pytest -n 2 --dist loadgroup tests

# Every Python at hand, with the default torch; ARGS='--fast --torches 2.6.0' and
# the like for less or more. Environments take 6 GB each, one at a time.
matrix:
	@$(PYTHON) tools/misc/matrix.py work_dirs/matrix $(ARGS)

# Pin what pyproject.toml asks for, for every Python and platform at once. With
# the OpenCV that wants no graphical libraries, which has the same versions;
# without the parts of CUDA, which each torch names itself.
LOCK := work_dirs/lock.txt
BY := \# Written by `make lock` from pyproject.toml.
OPENMMLAB := mmengine|mmcv-lite|mmdet|mmpretrain
lock: setup
	@mkdir -p $(dir $(LOCK))
	@$(VENV) -m pip install -q --disable-pip-version-check uv
	@$(VENV) -m uv pip compile -q --upgrade --universal --python-version 3.10 \
		--no-header --no-annotate --extra openmmlab --extra export \
		--extra tests pyproject.toml -o $(LOCK)
	@{ echo '$(BY)'; grep -E '^torch(vision)?==' $(LOCK); } \
		> requirements/torch.txt
	@{ echo '$(BY)'; grep -E '^($(OPENMMLAB))==' $(LOCK); } \
		> requirements/mminstall.txt
	@{ echo '$(BY)'; sed 's/^opencv-python==/opencv-python-headless==/' \
		$(LOCK) | grep -vE '^(nvidia-[^m]|cuda|triton|torch|$(OPENMMLAB))'; \
	} > requirements/constraints.txt
