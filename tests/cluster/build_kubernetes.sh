#!/usr/bin/env bash
# Builds kube-apiserver, kube-controller-manager and etcd from Debian 12's packages alone, into the cache of `make test-cluster`.
# Needs apt, the network it is set up for, 4 GB for a while and 8 minutes on two cores; installs nothing.
set -euo pipefail

version=1.20.2
cache=${XDG_CACHE_HOME:-$HOME/.cache}/tzrec-pipelines
result=$cache/kubernetes-$version
mkdir -p "$cache"

# Two makes at once: the second one waits and finds what the first one has built.
exec 9>"$cache/.kubernetes.lock"
flock 9
if [ -d "$result" ]; then
  echo "kubernetes: found in $result"
  exit 0
fi

# Fixed names, so that what a killed build has left is cleared away by the next one.
work=$cache/.kubernetes.build
partial=$cache/.kubernetes.partial
rm -rf "$work" "$partial"
build=
stop() {
  [ -z "$build" ] || kill -- "-$build"
  wait
  exit "$1"
}
trap 'rm -rf "$work" "$partial"' EXIT
trap 'stop 130' INT
trap 'stop 143' TERM
mkdir "$work"
cd "$work"
mkdir -p home packages root lists/partial cache/archives/partial

# Debian's own archive as this machine's apt has it, with the sources that few machines have.
private=(-qq -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root)
find_archive() {
  apt-get "$@" indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' \
    | awk '$2 == "bookworm" && $3 == "main" { print $1; exit }'
}
archive=$(find_archive)
if [ -z "$archive" ]; then # apt-get update has never run here
  apt-get "${private[@]}" update
  archive=$(find_archive "${private[@]}")
fi
if [ -z "$archive" ]; then
  echo "error: apt knows no archive of Debian 12 (bookworm main)" >&2
  exit 1
fi
key=/usr/share/keyrings/debian-archive-keyring.gpg
for kind in deb deb-src; do echo "$kind [signed-by=$key] $archive bookworm main"; done >sources.list
apt=(apt-get "${private[@]}" -o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=-)
echo "kubernetes: building $version from Debian's source package; this takes some minutes"
"${apt[@]}" update
(
  cd packages
  # The compiler and its tools, not installed but unpacked.
  "${apt[@]}" download golang-1.19-go golang-1.19-src golang-github-modern-go-reflect2-dev \
    etcd-server rsync libpopt0 libxxhash0 make patch xz-utils
  "${apt[@]}" source --download-only kubernetes
)
for package in packages/*.deb; do dpkg-deb --extract "$package" root; done
libraries=$(echo root/usr/lib/*-linux-gnu)
export PATH=$work/root/usr/lib/go-1.19/bin:$work/root/usr/bin:$PATH
export LD_LIBRARY_PATH=$work/$libraries

source=kubernetes-$version
tar -xzf packages/kubernetes_*.orig.tar.gz
tar -xJf packages/kubernetes_*.debian.tar.xz -C "$source"
while read -r name; do
  patch -d "$source" -sp1 <"$source/debian/patches/$name"
done < <(grep -v '^#' "$source/debian/patches/series")
# reflect2 1.0.1, which comes with the source, crashes where Go is 1.18 or newer; Debian's is 1.0.2.
vendored=$source/vendor/github.com/modern-go/reflect2
rm -f "$vendored"/*.go "$vendored"/*.s
cp root/usr/share/gocode/src/github.com/modern-go/reflect2/*.{go,s} "$vendored/"

export HOME=$work/home GOROOT=$work/root/usr/lib/go-1.19 GOPATH=$work/$source/.go
export GOPROXY=off GOFLAGS='' CGO_ENABLED=0
export KUBE_GIT_VERSION=v$version KUBE_GIT_COMMIT=debian KUBE_GIT_TREE_STATE=clean
export KUBE_GIT_MAJOR=1 KUBE_GIT_MINOR=20
mkdir -p "$GOPATH/src/k8s.io"
ln -s ../../.. "$GOPATH/src/k8s.io/kubernetes"
cd "$GOPATH/src/k8s.io/kubernetes"
# In a process group of its own, which can be ended as a whole; a shell hears signals while it waits.
setsid make WHAT="cmd/kube-apiserver cmd/kube-controller-manager" GOLDFLAGS="-s -w" \
  >"$work/make.log" 2>&1 &
build=$!
wait "$build" || {
  tail -n 30 "$work/make.log" >&2
  exit 1
}
build=

mkdir "$partial"
cp _output/bin/kube-apiserver _output/bin/kube-controller-manager "$work/root/usr/bin/etcd" "$partial/"
mv "$partial" "$result"
echo "kubernetes: built into $result"
