# Functions for rows that measure openssl.

# Write the number of operations and the seconds to the file "rate".
speed() {
    openssl speed -elapsed -mr -seconds "$N" "$@" 2>report >/dev/null
    awk -F: '/^\+R/ && !n++ { print $2, $NF }' report >rate
    [ -s rate ]
}

# Sign a message with the file "key" and verify it.
sign() {
    echo message >message
    openssl pkey -in key -pubout -out public
    openssl dgst -sha256 -sign key -out signature message
    openssl dgst -sha256 -verify public -signature signature message
}
