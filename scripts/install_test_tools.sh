#!/bin/sh
# Installs what some tests need and pip cannot bring: SoftHSM2 (a PKCS#11 token in software), a C
# compiler for the token's faults, strace for faults at system calls, OpenSSL's FIPS provider, and the
# tools of docs/verify-with-other-tools.md.
# For root on Debian, such as in CI; anywhere else it says what it would install and changes
# nothing. Tests whose tool is missing are skipped, visibly.
#
#     sh scripts/install_test_tools.sh
set -eu

packages="softhsm2 openssl gcc libc6-dev strace openssh-client curl jq xxd"

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || [ ! -r /etc/debian_version ]; then
    echo "Not root on Debian: nothing is installed. The tests would like: $packages" >&2
    echo "and openssl-provider-fips (Debian 13 or later)." >&2
    exit 0
fi

export DEBIAN_FRONTEND=noninteractive
missing() { ! dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'ok installed'; }

wanted=""
for package in $packages; do
    if missing "$package"; then wanted="$wanted $package"; fi
done
if [ -n "$wanted" ] || missing openssl-provider-fips; then
    apt-get update -qq || echo "The package lists could not be fetched." >&2
fi
if [ -n "$wanted" ]; then
    # shellcheck disable=SC2086
    apt-get install -y -qq --no-install-recommends $wanted || echo "Not installed:$wanted" >&2
fi
missing openssl-provider-fips || exit 0

# Debian 13 has the provider. Debian 12 has not, but its libcrypto 3.0 loads that of Debian 13, which
# needs nothing but a libc that is there already.
if apt-cache policy openssl-provider-fips | grep -q 'Candidate: [0-9]'; then
    apt-get install -y -qq --no-install-recommends openssl-provider-fips ||
        echo "Not installed: openssl-provider-fips" >&2
    exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
# From wherever this machine gets its packages already.
apt-get indextargets --format '$(REPO_URI)' | sort -u | while read -r mirror; do
    case "$mirror" in
    *security*) echo "deb [signed-by=$keyring] $mirror trixie-security main" ;;
    *) echo "deb [signed-by=$keyring] $mirror trixie main" ;;
    esac
done >"$work/sources.list"
# A configuration of its own, so that nothing else of Debian 13 can ever be installed from here.
apt="-o Dir::State::lists=$work/lists -o Dir::Cache=$work/cache -o APT::Sandbox::User=root"
apt="$apt -o Dir::Etc::sourcelist=$work/sources.list -o Dir::Etc::sourceparts=/dev/null"
cd "$work"
# shellcheck disable=SC2086
if apt-get $apt update -qq && apt-get $apt download -qq openssl-provider-fips; then
    dpkg -i openssl-provider-fips_*.deb
else
    echo "openssl-provider-fips cannot be had here; the tests of FIPS mode are skipped." >&2
fi
