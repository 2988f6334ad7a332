# A program in Go: esbuild bundles and minifies N modules.
prepare() {
    mkdir src
    echo 'let sum = 0;' >src/main.js
    i=0
    while [ "$i" -lt "$N" ]; do
        sed "s/MODULE/m$i/g" /bench/files/module.js >"src/m$i.js"
        echo "import { m$i } from './m$i.js'; sum += m$i(sum);" >>src/main.js
        i=$((i + 1))
    done
    echo 'console.log(sum);' >>src/main.js
}

run() {
    esbuild src/main.js --bundle --minify --sourcemap --log-level=error --outfile=all.js
    cksum all.js all.js.map
}
