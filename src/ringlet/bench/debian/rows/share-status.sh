# git status in a large tree on a share of which the guest knows nothing yet.
. /bench/files/git.sh

prepare() { fresh; }

run() { status; }
