#!/bin/bash
# Starts a lab machine with Debian 12, lets `anemos up` make it what an example describes, and logs in to show what it is.
# usage: tests/demo.sh [examples/NAME]        FIRMWARE=uefi for a UEFI machine
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
. tests/as-root.sh
example=${1:-examples/debian}
payload=$example
[ ! -d "$example/payload" ] || payload=$example/payload
[ -x "$payload/deploy" ] || [ -f "$payload/IMGBUILD" ] || { echo "demo: there is no $payload/deploy and no $payload/IMGBUILD" >&2; exit 1; }
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

# Builds anemos while the lab prepares itself beside. Neither outlives this script: the lab, which may be root's, ends
# when its standard input does; the build is a process group of its own, which is told to end.
build_beside_the_lab() {
    local log=${CARGO_TARGET_DIR:-$PWD/target}/lab-setup.log open=${CARGO_TARGET_DIR:-$PWD/target}/lab-setup.open setup build first
    say "Building the lab (half a minute)"
    build_lab
    find_root
    # Asks for a password now, if it must, and not from the background.
    [ ${#as_root[@]} -eq 0 ] || sudo -v

    say "Building anemos; beside it the lab makes a Debian 12 host and a package archive (4 minutes on two cores, once)"
    echo "the lab tells $log"
    rm -f "$open"
    mkfifo "$open"
    "${as_root[@]}" "$lab" setup --attended <"$open" >"$log" 2>&1 &
    setup=$!
    exec 4>"$open"
    rm "$open"
    set -m
    make --no-print-directory build-demo 4>&- </dev/null &
    build=$!
    set +m
    trap 'exec 4>&-; kill -TERM -- "-$build" 2>/dev/null || true; wait' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    wait -n -p first "$setup" "$build" || not_built "$first"
    if [ "$first" = "$build" ]; then
        say "anemos is built, the lab is not ready yet"
        tail --pid="$setup" --sleep-interval=0.2 --lines=+1 --follow "$log"
        wait "$setup" || not_built "$setup"
    else
        wait "$build" || not_built "$build"
    fi
    exec 4>&-
    trap - EXIT INT TERM
}

not_built() {
    if [ "$1" = "$setup" ]; then
        echo "demo: the lab can't be prepared:" >&2
        tail -n 20 "$log" >&2
    else
        echo "demo: anemos can't be built, for the reason above" >&2
    fi
    exit 1
}

if [ -z "${ANEMOS_LAB_BUILT:-}" ]; then
    build_beside_the_lab
    export ANEMOS_LAB_BUILT=$lab
    [ ${#as_root[@]} -eq 0 ] || exec "${as_root[@]}" "$PWD/tests/demo.sh" "$@"
fi
lab=$ANEMOS_LAB_BUILT

dir=${ANEMOS_LAB:-$PWD/.lab}/demo
mkdir -p "$dir"
rm -f "$dir/host.json" "$dir/hold"

# A plain build, which is sooner there than what `make build` leaves: it has to be told where stage and agent are.
anemos=$dir/anemos
cat >"$anemos" <<END
#!/bin/sh
export ANEMOS_STAGE='$PWD/target/remote/stage' ANEMOS_AGENT='$PWD/target/remote/agent'
exec '${CARGO_TARGET_DIR:-$PWD/target}/debug/anemos' "\$@"
END
chmod 755 "$anemos"

say "Starting a machine with Debian 12"
# The machine lives as long as this end of its standard input is open.
mkfifo "$dir/hold"
"$lab" demo-host --firmware "${FIRMWARE:-bios}" --into "$dir" <"$dir/hold" >/dev/null &
machine=$!
exec 3>"$dir/hold"
trap 'exec 3>&-; wait "$machine" 2>/dev/null || true' EXIT
until [ -e "$dir/host.json" ]; do
    kill -0 "$machine" 2>/dev/null || { echo "demo: the machine did not start" >&2; exit 1; }
    sleep 0.2
done
. "$dir/host.env"
cat >"$dir/hosts.toml" <<END
[hosts.demo]
address = "$LAB_ADDRESS"
port = $LAB_PORT
user = "$LAB_USER"
identity_file = "$LAB_IDENTITY_FILE"
known_hosts = "$LAB_KNOWN_HOSTS"
payload = "$PWD/$payload"
disk = { serial = "$LAB_DISK_SERIAL" }
authorized_keys = ["$LAB_IDENTITY_FILE.pub"]
END
"$lab" ssh --from "$dir" '. /etc/os-release; echo "$PRETTY_NAME, kernel $(uname -r), boot $(cat /proc/sys/kernel/random/boot_id)"'

say "anemos up $dir/hosts.toml"
"$anemos" up --yes "$dir/hosts.toml"

say "What the machine is now"
"$lab" ssh --from "$dir" 'if [ -r /etc/os-release ]; then . /etc/os-release; fi
echo "${PRETTY_NAME:-a system without a name}, kernel $(uname -r), boot $(cat /proc/sys/kernel/random/boot_id)"
cat /etc/motd 2>/dev/null || true; df -h / 2>/dev/null || true'

say "How to go on"
cat <<END
  its description   $dir/hosts.toml
  log in            $lab ssh
  again             $anemos up $dir/hosts.toml
  what happened     $anemos status; $anemos logs demo
  its serial line   $LAB_SERIAL_LOG
  your own host     copy $example, put your host's address in its hosts.toml, then: $anemos plan HOSTS.TOML
END
if [ -t 0 ]; then
    read -rp $'\nThe machine runs until you press Enter. ' || true
fi
