// Row reductions for CPU-type devices, as row.glsl's: an invocation has a row for itself, 32 elements of it at
// a time, one of each lane. Twin of ops::rows.
layout(local_size_x = 8) in;

#include "eights.glsl"
#include "flat.glsl"

const uint ROW_LANES = 32;

void clear(out float part[ROW_LANES], float value) {
    [[unroll]] for (uint l = 0; l < ROW_LANES; ++l) part[l] = value;
}

float row_sum(float part[ROW_LANES]) {
    [[unroll]] for (uint s = ROW_LANES / 2; s > 0; s >>= 1)
        [[unroll]] for (uint p = 0; p < s; ++p) part[p] = part[p] + part[p + s];
    return part[0];
}
