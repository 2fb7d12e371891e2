# Runs the function $3 of an IMGBUILD. $1 has the values that its top level left, $2 its functions. What stands beside
# their definitions must not change the values. The function is called by itself, so `set -e` holds inside it.
set -e
. "$1"
. "$2"
. "$1"
"$3"
