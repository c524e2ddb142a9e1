# Deals picks to two classes, as a 2-D classification would: selected-SEED.star has those at a label, rejected-SEED.star the others.
#   awk -v reach=40 -v mistaken=0.05 -v seed=1 -v out=FOLDER -f split-picks.awk LABELS/*.star PICKS/*.star
# A pick is at a label if it is nearer than `reach` pixels, and a label counts for the first pick that it meets, which is the one with the
# best score, because picks are written in the order of their scores. A share of the picks is put into the wrong class. The random numbers
# are those of Park and Miller 1988, doi:10.1145/63039.63042, which awk's doubles hold exactly.

function unit() {
    state = state * 16807 % 2147483647
    return state / 2147483647
}

function base(name) {
    sub(/.*\//, "", name)
    sub(/\.star$/, "", name)
    return name
}

function write_row(class, name, x, y) {
    file = out "/" class "-" seed ".star"
    if (!(file in begun)) {
        printf "data_particles\n\nloop_\n_rlnMicrographName #1\n_rlnCoordinateX #2\n_rlnCoordinateY #3\n" > file
        begun[file] = 1
    }
    print name ".mrc", x, y > file
}

BEGIN {
    state = seed * 7919 + 1
    for (i = 0; i < 10; i++) unit()
}

FNR == 1 {
    name = base(FILENAME)
    is_label = !(name in seen)
    seen[name] = 1
    column = x_column = y_column = 0
}

/^_rln/ {
    column++
    if ($1 == "_rlnCoordinateX") x_column = column
    if ($1 == "_rlnCoordinateY") y_column = column
}

$1 ~ /^[-+.0-9]/ && x_column && y_column {
    x = $x_column
    y = $y_column
    if (is_label) {
        n = ++count[name]
        label_x[name, n] = x
        label_y[name, n] = y
        next
    }
    nearest = 0
    least = reach * reach
    for (i = 1; i <= count[name]; i++) {
        square = (label_x[name, i] - x) ^ 2 + (label_y[name, i] - y) ^ 2
        if (!taken[name, i] && square < least) {
            least = square
            nearest = i
        }
    }
    if (nearest) taken[name, nearest] = 1
    is_kept = nearest > 0
    if (unit() < mistaken) is_kept = !is_kept
    write_row(is_kept ? "selected" : "rejected", name, x, y)
}
