# Runs one Postgres for exactly as long as its owner lives.
#
# Standard input is a pipe. Only the owner holds its write end, so the pipe ends when the owner stops the server, exits,
# panics or is killed. Descriptor 3 may be the lock on a kept cluster. Everything started here inherits it, so the lock
# is free again only when all of these processes have ended.
#
# Arguments: the folder of the binaries, a private folder to create and remove, the data folder, the signal that stops
# the server, the server's arguments.
bin=$1 home=$2 data=$3 signal=$4
shift 4

# Only the end of the pipe ends this process. A process that signals it wants the server to stop as well, and the server
# stops when the owner has ended.
trap '' HUP INT QUIT TERM PIPE
exec 4<&0 </dev/null
umask 077
unset PGDATA PGPORT
mkdir "$home" || exit 1
trap 'rm -rf "$home"' EXIT
log=$home/log

fail() {
	tail -n 20 "$log" >&2
	exit 1
}

# A cluster appears under its name only when it is complete.
if ! [ -e "$data/PG_VERSION" ]; then
	case $data in # a cluster that is not kept need not be safe on disk
	"$home"/*) sync=--no-sync ;;
	*) sync= ;;
	esac
	rm -rf "$data.new"
	"$bin/initdb" -D "$data.new" -U postgres -A trust -E UTF8 --locale=C $sync >"$log" 2>&1 || fail
	mv "$data.new" "$data" || exit 1
fi

# We hold the lock, so no other process runs this cluster. A crash may have left a lock file behind. The number in it
# can belong to another process now, so the file is removed.
rm -f "$data/postmaster.pid"
"$bin/postgres" -D "$data" -k "$home" "$@" >"$log" 2>&1 4<&- &
server=$!

# The signal is repeated because a server that has just started ignores it.
{
	read -r _ <&4
	while kill -s "$signal" "$server"; do sleep 0.1; done
} 2>/dev/null 3>&- &
guard=$!

wait "$server"
status=$?
kill -s KILL "$guard" 2>/dev/null
[ $status -eq 0 ] || fail
