#!/bin/sh
# Unpacks Debian's adbd (an Android debug daemon for Linux) and its libraries into a folder, so
# that the tests of the adb transport have a real daemon to talk to:
#
#     tools/fetch_adbd.sh            # into ~/.cache/sepdeploy/test-adbd
#     tools/fetch_adbd.sh FOLDER     # then: export SEPDEPLOY_TEST_ADBD=FOLDER
#
# Needs apt and its archive keyring, no root; nothing is installed. bookworm has the package in
# its backports only, later releases in main. The packages come through apt's signed index.
set -eu
dest=${1:-$HOME/.cache/sepdeploy/test-adbd}
[ -x "$dest/root/usr/lib/android-sdk/platform-tools/adbd" ] && exit 0
# The mirror that this system uses itself.
mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | head -n 1)}
[ -n "$mirror" ] || { echo "apt knows no Debian mirror: run apt-get update" >&2; exit 1; }
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
release=$(. /etc/os-release && echo "${VERSION_CODENAME:-bookworm}")
mkdir -p "$dest/apt/lists/partial" "$dest/apt/cache/archives/partial" "$dest/debs"
dest=$(cd "$dest" && pwd)
{
  echo "deb [signed-by=$keyring] $mirror $release main"
  echo "deb [signed-by=$keyring] $mirror $release-backports main"
} >"$dest/apt/sources.list"
cat >"$dest/apt/apt.conf" <<CONF
Dir::State "$dest/apt";
Dir::State::status "/dev/null";
Dir::Cache "$dest/apt/cache";
Dir::Etc::sourcelist "$dest/apt/sources.list";
Dir::Etc::sourceparts "-";
APT::Sandbox::User "";
CONF
export APT_CONFIG="$dest/apt/apt.conf"
apt-get update -qq
cd "$dest/debs"
# The daemon and its libraries must be of one version, so all come from the newer suite.
apt-get download -qq -t "$release-backports" adbd android-libbase android-libboringssl android-libcutils android-liblog \
  libprotobuf32 libbrotli1 liblz4-1 libzstd1
for deb in *.deb; do dpkg-deb -x "$deb" "$dest/root"; done
rm -rf "$dest/apt" "$dest/debs"
