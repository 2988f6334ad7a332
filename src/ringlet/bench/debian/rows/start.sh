# N starts of python3 with imports.
prepare() { :; }

run() {
    i=0
    while [ "$i" -lt "$N" ]; do
        python3 -c 'import json, re, subprocess, argparse, logging; print(json.dumps([1]))'
        i=$((i + 1))
    done
}
