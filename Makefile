# `make run` and `make test` do all their set-up: the virtual environment is made when it is missing or out of date.
SHELL := /bin/bash
VENV := .venv
PYTHON := $(VENV)/bin/python
# The first interpreter that really starts and is new enough; override with `make BASE_PYTHON=...`.
BASE_PYTHON ?= $(shell for p in python3 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

.PHONY: run serve test test-slow test-printed faults readers docs nano ablations lint format clean

# One image becomes a scene, by the small model that is part of the project; `make run IMAGE=photo.jpg CAMERAS=zoom_in`.
# What is given reaches the command as it was typed: make would expand the `$5` in a prompt, and the shell its quotes.
IMAGE := pretrained/nano/example.png
PROMPT := The camera orbits to the left around a cream and red shaded table. There is a green and olive shaded tree on the right.
CAMERAS := orbit_left
ANGLE := $(if $(filter file,$(origin CAMERAS)),15)
override IMAGE := $(value IMAGE)
override PROMPT := $(value PROMPT)
override CAMERAS := $(value CAMERAS)
export IMAGE PROMPT CAMERAS
run: $(VENV)/ready
	$(PYTHON) -m gen3r_jax generate --weights pretrained/nano --images="$$IMAGE" --prompt="$$PROMPT" \
	  --cameras="$$CAMERAS" $(ANGLE:%=--camera_angle %) --output "runs/scenes/$$(date +%Y-%m-%d-%H-%M-%S)"

# The page on which scenes are made, with the small model; `make serve WEIGHTS=weights PORT=9000`.
WEIGHTS := pretrained/nano
PORT := 8000
serve: $(VENV)/ready
	$(PYTHON) -m gen3r_jax serve --weights "$(WEIGHTS)" --output runs/served --port $(PORT)

test: $(VENV)/ready
	$(PYTHON) -m pytest -n auto --maxprocesses 4 --dist loadfile

test-slow: $(VENV)/ready
	$(PYTHON) -m pytest -m slow -n 2 --dist loadfile --timeout 900

# Every command that README and docs print, on tiny networks.
test-printed: $(VENV)/ready
	$(PYTHON) -m pytest -m printed --timeout 1800

# Programs that are not ours and read what is exported; tests that take them are skipped without them.
readers: $(VENV)/ready
	$(PYTHON) -m pip install --quiet --editable '.[usd]'
	npm install --prefix tests/node --ignore-scripts --no-audit --no-fund --no-package-lock

# The site of the documentation, build/site/index.html, which opens without a server or a network.
docs: $(VENV)/ready
	$(PYTHON) -m pip install --quiet --editable '.[docs]'
	$(PYTHON) -m mkdocs build

# Damaged input, flipped bits, kills and pairs: hours at full number. `make faults COUNT=0.1 SEED=7 KINDS="fuzz flips"`.
COUNT := 1
faults: $(VENV)/ready
	$(PYTHON) -m tests.faults $(KINDS) --count $(COUNT) $(if $(SEED),--seed $(SEED))

# The stages of the nano model in order, each from what those before it wrote, in the folder that configs/nano name; what
# is done is not done again. `make nano SHARE=0.1` trains with a tenth of the steps and clips.
NANO := runs/nano
SHARE := 1
train = $(PYTHON) -m gen3r_jax train --config configs/nano/$(1) --config.train.share=$(SHARE) --workdir $(NANO)/$(2)
part = $(shell awk 'BEGIN { print int($(SHARE) * $(1) + 0.5) }')
nano: $(VENV)/ready
	$(PYTHON) -m gen3r_jax.stages.drawn_encoders $(NANO)/weights
	for split in train test; do \
	  scenes=$$([ $$split = train ] && echo $(call part,12000) || echo 64); \
	  $(PYTHON) -m gen3r_jax pack procedural $(NANO)/data --split $$split --num_scenes $$scenes \
	    --num_frames 9 --size 112 112 --depth --workers 2 || exit 1; \
	done
	for stage in wan_vae vggt adapter; do \
	  $(call train,$$stage.py,$$stage) || exit 1; \
	  cp -r $(NANO)/$$stage/weights/. $(NANO)/weights || exit 1; \
	done
	$(PYTHON) -m gen3r_jax encode --config configs/nano/dit.py:frames --output $(NANO)/latents --clips $(call part,4000) \
	  --batch 4
	$(call train,dit.py:appearance,dit-appearance)
	$(call train,dit.py,dit)
	cp -r $(NANO)/dit/weights/. $(NANO)/weights
	$(PYTHON) -m gen3r_jax compact $(NANO)/weights $(NANO)/shipped
	$(PYTHON) -m gen3r_jax evaluate --config configs/eval.py:nano --weights $(NANO)/shipped --data procedural \
	  --output $(NANO)/evaluation

# The paper's ablations on the nano model, each trained with three seeds, from what `make nano` left.
ablations: $(VENV)/ready
	$(PYTHON) -m benchmarks.ablations --weights $(NANO)/weights --wan_dit $(NANO)/dit-appearance/weights/wan_dit \
	  --data $(NANO)/data --output $(NANO)/ablations

lint: $(VENV)/ready
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m pyright --project pyproject.toml --pythonpath $(PYTHON)

format: $(VENV)/ready
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

$(VENV)/ready: requirements.txt pyproject.toml setup.py
	@test -n "$(BASE_PYTHON)" || { echo "error: no Python 3.11 or newer found; install one or pass BASE_PYTHON=/path/to/python" >&2; exit 2; }
	$(BASE_PYTHON) -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --upgrade pip
	$(PYTHON) -m pip install --quiet --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
