# Removes one container as soon as its owner is gone.
#
# Standard input is a pipe. Only the owner holds its write end. Arguments: the docker command, the container's name, and
# the seconds that the container gets to shut down. The environment says which daemon to use.
docker=$1 name=$2 grace=$3

trap '' HUP INT QUIT TERM PIPE
read -r _
"$docker" stop -t "$grace" "$name" >/dev/null 2>&1
"$docker" rm -f -v "$name" >/dev/null 2>&1
exit 0
