PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
QUICK := --seeds 0 1 2 --budget-steps 1000 --limit-seconds 120 --runs runs/bench-quick
COMPARED := --seeds 0 1 2 --budget-steps 2000

.PHONY: demo test lint format bench bench-quick comparison clean

demo: $(READY)  ## train a VAE on the digits, evaluate it, draw it
	rm -rf runs/demo
	$(BIN)/python -m pyro_dgm fit vae --data digits --epochs 200 --set latent_features=16 --set learning_rate=0.002 --out runs/demo

test: $(READY)  ## the whole suite
	$(BIN)/python -m pytest -q -n auto --maxprocesses 8 --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## the tables of benchmarks/README.md
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt numpyro funsor
	$(BIN)/python -m benchmarks step-time --threads 1
	$(BIN)/python -m benchmarks step-time --threads 2
	$(BIN)/python -m benchmarks gradients
	$(BIN)/python -m benchmarks reference-vae
	$(BIN)/python -m benchmarks published
	$(BIN)/python -m benchmarks posteriors
	$(BIN)/python -m benchmarks potentials
	$(BIN)/python -m benchmarks modes
	$(BIN)/python -m benchmarks game-step --threads 1
	$(BIN)/python -m benchmarks image-games

bench-quick: $(READY)  ## a small grid of inference methods compared, and its page
	$(BIN)/python -m benchmarks run --tasks hierarchy eight-schools --methods elbo-stl pyro-autonormal pyro-automvn pyro-nuts $(QUICK) --jobs 2
	$(BIN)/python -m benchmarks run --tasks sbn --methods rws vimco nvil enumerate pyro-tracegraph pyro-rws $(QUICK) --jobs 2
	$(BIN)/python -m benchmarks run --tasks digits --methods elbo elbo-analytic elbo-compiled iwae-dreg pyro-trace-elbo torch-vae $(QUICK)
	$(BIN)/python -m benchmarks run --tasks ring --methods gan-r1 wgan-gp torch-gan $(QUICK) --jobs 2
	$(BIN)/python -m benchmarks report --runs runs/bench-quick --results runs/bench-quick/report

comparison: $(READY)  ## the committed comparison, benchmarks/results/comparison.*: three seeds; an hour and a half with two cores
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt numpyro
	$(BIN)/python -m benchmarks run --tasks digits mnist --methods elbo elbo-analytic elbo-compiled iwae-dreg pyro-trace-elbo torch-vae numpyro-meanfield $(COMPARED)
	$(BIN)/python -m benchmarks run --tasks hierarchy eight-schools logistic --methods elbo elbo-stl pyro-autonormal pyro-automvn pyro-svgd pyro-nuts numpyro-automvn numpyro-nuts $(COMPARED)
	$(BIN)/python -m benchmarks run --tasks sbn mixture --methods rws wake-sleep vimco nvil rebar disarm straight-through enumerate pyro-tracegraph pyro-traceenum pyro-rws $(COMPARED)
	$(BIN)/python -m benchmarks run --tasks ppca gamma-poisson state-space --methods elbo elbo-stl elbo-compiled iwae-dreg pyro-trace-elbo $(COMPARED)
	$(BIN)/python -m benchmarks run --tasks mnist-fixed jsb fashion-mnist --methods elbo elbo-analytic iwae-dreg pyro-trace-elbo $(COMPARED) --jobs 2
	$(BIN)/python -m benchmarks run --tasks potential-1 potential-2 potential-3 potential-4 --methods elbo pyro-autoiaf pyro-svgd pyro-nuts numpyro-nuts $(COMPARED) --jobs 2
	$(BIN)/python -m benchmarks run --tasks ring grid --methods gan gan-r1 wgan-gp hinge gmmn torch-gan --seeds 0 1 2 --budget-steps 5000 --jobs 2
	$(BIN)/python -m benchmarks report

clean:
	rm -rf $(VENV) runs build *.egg-info

$(READY): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "pyro_dgm needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,lint,tensorboard]'
	touch $@
