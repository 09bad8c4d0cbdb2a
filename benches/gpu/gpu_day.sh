#!/usr/bin/env bash
# Everything a GPU can tell of foster in one call, on a bare machine with torch and nvcc and no network; under 8 minutes.
#
#   OUT=folder bash benches/gpu/gpu_day.sh          on the GPU
#   OUT=folder DEVICE=cpu bash …                the same stages on a CPU, small: to try this script
#   TOOLS=0 leaves out the memory checkers and the profiler.
#
# In: a checkout, python3 with torch, nvcc; `.gpu/minilm` (weights in 16 bits) where it was carried, else a random BERT.
# Out, in $OUT: build.log tests.log sanitizer.log checks.json ops.json step.json distill.jsonl ncu.txt (eight files).
# A stage that fails or runs out of time says so, and the next one begins.
set -uo pipefail
cd "$(git rev-parse --show-toplevel 2>/dev/null || pwd)"
HERE=${GPU_DAY:-benches/gpu}
TMP=${TMP:-$(mktemp -d)}; OUT=${OUT:-$TMP/gpu-day}; DEVICE=${DEVICE:-cuda}; PY=${PYTHON:-python3}
mkdir -p "$OUT"
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1 FOSTER_CACHE=$TMP/foster-cache PYTHONPATH="$PWD:${PYTHONPATH:-}"
declare -a SUMMARY; BEGAN=$SECONDS
DEADLINE=${DEADLINE:-500}  # seconds: what does not begin before is left out, so that the summary still comes
stage() { # name, seconds, log, command...
  local name=$1 limit=$2 log=$3 at=$SECONDS rc left=$((DEADLINE - SECONDS + BEGAN)); shift 3
  if [ "$left" -lt 10 ]; then SUMMARY+=("$name: no time left"); return 0; fi
  [ "$limit" -le "$left" ] || limit=$left
  echo "=== $name" | tee -a "$OUT/$log"
  timeout -k 5 "$limit" "$@" >>"$OUT/$log" 2>&1; rc=$?
  SUMMARY+=("$(printf '%-34s rc %-3s %4ss' "$name" "$rc" $((SECONDS - at)))"); echo "${SUMMARY[-1]}"; return $rc
}
gpu() { [ "$DEVICE" = cuda ]; }

# --- the toolkit: nvcc may be a wrapper; cuBLAS' headers may be those of torch's own wheels
if gpu; then
  TOP=$(nvcc -dryrun -x cu /dev/null -c -o /dev/null 2>&1 | sed -n 's/^#\$ TOP=//p'); export CUDA_HOME=${CUDA_HOME:-$(readlink -f "${TOP:-/usr/local/cuda}")}
  WHEELS=$($PY -c 'import nvidia; print(list(nvidia.__path__)[0])' 2>/dev/null)/cu13
  [ -d "$WHEELS/include" ] && export CPATH="${CPATH:+$CPATH:}$WHEELS/include"
  mkdir -p $TMP/cuda-lib; [ -e "$CUDA_HOME/lib64/libcudart.so" ] || ln -sf "$(ls "$WHEELS"/lib/libcudart.so.* 2>/dev/null | head -1)" $TMP/cuda-lib/libcudart.so
  export LIBRARY_PATH="${LIBRARY_PATH:+$LIBRARY_PATH:}$TMP/cuda-lib" TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-9.0} MAX_JOBS=${MAX_JOBS:-16}
  { nvidia-smi -L; nvcc --version | tail -2; echo "CUDA_HOME=$CUDA_HOME WHEELS=$WHEELS"; } | tee "$OUT/build.log"
fi
$PY -c 'import torch, transformers, numpy; print("torch", torch.__version__, "transformers", transformers.__version__, "numpy", numpy.__version__, "cuda", torch.cuda.is_available())' | tee -a "$OUT/build.log"

# --- build, in the background; meanwhile the encoder and the data
BUILDING=; [ "${BUILD:-1}" = 0 ] || { ( stage build 240 build.log $PY setup.py build_ext --inplace ) & BUILDING=$!; }
ENC=.gpu/minilm
if [ ! -f $ENC/model.safetensors ]; then ENC=$TMP/random-bert; mkdir -p $ENC
  PYTHONPATH="$PWD/tests:$PYTHONPATH" $PY -c "from pathlib import Path; from encoders import write_encoder as w; w(Path('$ENC'), 'mean', True)" >>"$OUT/build.log" 2>&1; fi
if gpu; then SHOP="--users 6000 --items 3000"; RUN="--steps 60 --draws 2 --check-every 30 --epochs 6"
else SHOP="--users 200 --items 60"; RUN="--steps 2 --draws 1 --check-every 2 --epochs 1 --budget 4 --length 6 --student-steps 20 --check-seeds 1"; fi
rm -f $TMP/shop.parquet; $PY -m foster_cli sample --out $TMP/shop.parquet $SHOP 2>&1 | tail -1
rm -rf $TMP/b-ref $TMP/b-ref.run $TMP/b-own $TMP/b-own.run "$FOSTER_CACHE"
# every command once, several at a time, and a whole distillation, by plain PyTorch: no extension is needed to see what of
# foster itself fails on a GPU
$PY -m foster_cli sample --out $TMP/tiny.parquet --users 300 --items 80 >/dev/null
( stage "every command, small" 150 smoke.log $PY $HERE/smoke.py --device $DEVICE --encoder $ENC --data $TMP/tiny.parquet --jobs $(gpu && echo 12 || echo 2) --limit 100 ) & SMOKING=$!
FOSTER_OPS=reference stage "distill, plain PyTorch" 150 distill.jsonl $PY -m foster_cli distill $TMP/shop.parquet --out $TMP/b-ref --encoder $ENC --device $DEVICE --json $RUN
wait "$SMOKING"; cat "$OUT/smoke.log" >>"$OUT/build.log"; grep -A26 -E "^rc +[1-9]|^smoke:" "$OUT/smoke.log"; rm -f "$OUT/smoke.log"
[ -z "$BUILDING" ] || wait "$BUILDING"; [ -f foster_cli/_C.json ] && SUMMARY+=("built: $(cat foster_cli/_C.json)") || SUMMARY+=("NOT BUILT: see build.log")
tail -3 "$OUT/build.log"

if [ -f foster_cli/_C.json ]; then
  export FOSTER_OPS=native
  # an error thrown in the extension must reach Python; if that ends the process, a debugger says where
  THROW="import torch
from foster_cli.ops import native; native.load()
try: torch.ops.foster.soft_embed(*[torch.zeros(2, n, device='$DEVICE') for n in (1, 2, 1)])
except RuntimeError as e: print('an error arrives:', str(e)[:60])"
  stage "an error from the extension" 30 tests.log $PY -c "$THROW" || { ldd foster_cli/_C*.so; command -v cuda-gdb >/dev/null && timeout 60 cuda-gdb -batch -ex run -ex bt --args $PY -c "$THROW"; } >>"$OUT/tests.log" 2>&1
  if gpu; then SELECT="-m gpu"; else SELECT="-k float64"; fi
  stage "tests" 120 tests.log $PY -m pytest -p no:cacheprovider $SELECT tests/ops/test_native.py tests/distill/test_graph.py; tail -4 "$OUT/tests.log"
  stage "checks" 60 checks.log $PY $HERE/gpu_ops.py check --device $DEVICE --out "$OUT/checks.json"; cat "$OUT/checks.log" >>"$OUT/tests.log"; rm -f "$OUT/checks.log"
  stage "ops, timed" 100 ops.log $PY $HERE/gpu_ops.py time --device $DEVICE --budget 70 --out "$OUT/ops.json"; tail -60 "$OUT/ops.log"; cat "$OUT/ops.log" >>"$OUT/tests.log"; rm -f "$OUT/ops.log"
  unset FOSTER_OPS
  stage "steps" 90 step.log $PY $HERE/gpu_step.py --device $DEVICE $(gpu || echo --items 300 --repeats 1) --out "$OUT/step.json"; cat "$OUT/step.log"; cat "$OUT/step.log" >>"$OUT/tests.log"; rm -f "$OUT/step.log"
  if gpu && [ "${TOOLS:-1}" = 1 ] && command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
      stage "$tool" 75 sanitizer.log compute-sanitizer --tool $tool --error-exitcode 9 --kernel-regex kns=_kernel $PY $HERE/gpu_ops.py small
    done
  fi
  FOSTER_OPS=native stage "distill, compiled ops" 120 distill.jsonl $PY -m foster_cli distill $TMP/shop.parquet --out $TMP/b-own --encoder $ENC --device $DEVICE --json $RUN
  gpu && FOSTER_OPS=native stage "an outer step, as in Table 5" 90 tests.log $PY -m foster_cli bench distill $TMP/shop.parquet --encoder $ENC --rows foster-few-last,foster-few-all --steps 5 --out $TMP/table5 --device $DEVICE && cat $TMP/table5/bench.md | tee -a "$OUT/tests.log"
  if gpu && [ "${TOOLS:-1}" = 1 ] && command -v ncu >/dev/null; then
    stage "ncu" 60 ncu.txt ncu --clock-control none --kernel-name regex:foster --launch-skip 20 --launch-count 12 --section SpeedOfLight --section Occupancy --section LaunchStats --section WarpStateStats $PY -c "
import sys; sys.path.insert(0, '$HERE')
import torch, gpu_ops as g
from foster_cli.ops import native; native.load()
for kind in ('bf16', 'fp32'):
    made = g.matrices(4000, 17332, 384, g.TYPES[kind][0], 'cuda')
    for op in ('soft_embed outer', 'soft_kl outer'):
        for _ in range(3): g.runs(op, 'ours', made)()
torch.cuda.synchronize()"
  fi
fi
echo; echo "======== summary after $((SECONDS - BEGAN)) s"; printf '%s\n' "${SUMMARY[@]}"; ls -la "$OUT"
