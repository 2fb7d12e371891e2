#!/bin/bash
# Starts a lab machine with Debian 12, lets `anemos up` make it what an example describes, and logs in to show what it is.
# usage: tests/demo.sh [examples/NAME]        FIRMWARE=uefi for a UEFI machine
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
. tests/as-root.sh
build_then_root "$@"
example=${1:-examples/debian}
payload=$example
[ ! -d "$example/payload" ] || payload=$example/payload
[ -x "$payload/deploy" ] || [ -f "$payload/IMGBUILD" ] || { echo "demo: there is no $payload/deploy and no $payload/IMGBUILD" >&2; exit 1; }
anemos=$PWD/target/release/anemos
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

dir=${ANEMOS_LAB:-$PWD/.lab}/demo
mkdir -p "$dir"
rm -f "$dir/host.json" "$dir/hold"

say "Preparing the lab (once: a Debian 12 host image and a package archive; a few minutes)"
"$lab" setup

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
  what happened     $anemos status; $anemos logs RUN demo
  its serial line   $LAB_SERIAL_LOG
  your own host     copy $example, put your host's address in its hosts.toml, then: $anemos plan HOSTS.TOML
END
if [ -t 0 ]; then
    read -rp $'\nThe machine runs until you press Enter. ' || true
fi
