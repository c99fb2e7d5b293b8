# Read by what installs Debian packages: setup, test-drivers, regression, make bench. Sets nothing, runs nothing.

# What every build needs: the libraries' headers.
readonly build_packages=(
    libzstd-dev libxxhash-dev pkg-config libssl-dev libpq-dev libpg-query-dev libprotobuf-c-dev libsqlite3-dev
)

# Says it on standard error, the name of the script in front.
say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }
fail() { say "$*"; exit 1; }

as_root() {
    if [[ $(id -u) == 0 ]]; then
        "$@"
    elif command -v sudo > /dev/null; then
        sudo "$@"
    else
        fail "this needs root or sudo: $*"
    fi
}

missing_packages() {
    local package
    for package in "$@"; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null) == installed ]] || echo "$package"
    done
}

# Installs those of the named packages that are missing; says nothing when none is. In a shell of its own: what holds
# services back goes with it however it ends, by Ctrl-C too, or no package would ever start its service on this machine
# again. Not to be called with `||` behind it, which takes `set -e` away from it: without the two files nothing is
# installed.
install_packages() (
    command -v apt-get > /dev/null || fail "no apt-get here; install by hand: $*"
    local missing
    mapfile -t missing < <(missing_packages "$@")
    [[ ${#missing[@]} == 0 ]] && exit
    say "installing ${missing[*]}"
    # Debian's packages would make a cluster on port 5432 and start it and PgBouncer: not here, where others may run.
    local hold=/etc/postgresql-common/createcluster.d/godwit-setup.conf policy=/usr/sbin/policy-rc.d made_policy=false
    let_go() {
        as_root rm -f "$hold"
        if $made_policy; then as_root rm -f "$policy"; fi
    }
    trap let_go EXIT
    trap 'exit 130' INT TERM HUP
    as_root mkdir -p "$(dirname "$hold")"
    echo "create_main_cluster = false" | as_root tee "$hold" > /dev/null
    if [[ ! -e $policy ]]; then
        made_policy=true
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" > /dev/null
        as_root chmod 755 "$policy"
    fi
    local status=0
    {
        as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q \
            && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends \
                -o DPkg::Lock::Timeout=120 "${missing[@]}"
    } < /dev/null >&2 || status=$?
    [[ $status == 0 ]] || fail "apt-get could not install ${missing[*]}: Debian 12 has them all"
)
