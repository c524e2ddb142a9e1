# Keeps a share of the points of a STAR file of coordinates, drawn by a seed: the same points with every awk.
#   awk -v share=0.1 -v seed=1 -f thin-labels.awk labels.star > kept.star
# Of n points it keeps share * n, rounded, and each choice is as likely as any other (Knuth, The Art of Computer
# Programming 2, algorithm 3.4.2S). The random numbers are those of Park and Miller 1988, doi:10.1145/63039.63042: whole
# numbers that awk's doubles hold exactly.

function unit() {
    state = state * 16807 % 2147483647
    return state / 2147483647
}

# The name of the file takes part in the seed, so that files of equal length lose different points.
FNR == 1 {
    letters = " !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~"
    name = FILENAME
    sub(/.*\//, "", name)
    hash = seed + 1
    for (i = 1; i <= length(name); i++) hash = (hash * 131 + index(letters, substr(name, i, 1))) % 2147483646
    state = hash + 1
    for (i = 0; i < 10; i++) unit()
}

$1 ~ /^[-+.0-9]/ { points[++count] = $0; next }
{ print }

END {
    wanted = int(share * count + 0.5)
    for (i = 1; i <= count; i++) {
        if (unit() * (count - i + 1) < wanted) {
            print points[i]
            wanted--
        }
    }
}
