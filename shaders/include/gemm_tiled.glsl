// The body of the products for GPUs: a workgroup computes a tile of C, with A's and B's share of a few terms
// in shared memory, the next share on its way in registers, and the sums of each invocation in registers.
//
// The including shader names the buffers: LEFT, RIGHT, RESULT (floats), LEFT_VEC4, RIGHT_VEC4,
// RESULT_VEC4 (the same, by fours) and BIAS(column).

#include "gemm_push.glsl"

const uint SIDE = 16; // invocations along each side of a tile
layout(local_size_x = 256) in;

// Fours of rows and of columns that an invocation sums: a tile is 64 times as large.
layout(constant_id = 5) const uint ROW_QUADS = 1;
layout(constant_id = 6) const uint COLUMN_QUADS = 1;

const uint STEP = 16; // terms in shared memory; K_BLOCK is a multiple of it
const uint TILE_ROWS = SIDE * 4 * ROW_QUADS;
const uint TILE_COLUMNS = SIDE * 4 * COLUMN_QUADS;

// left_tile[term][row / 4] and right_tile[term][column / 4]; one more, so that writes of consecutive terms
// meet different banks.
const uint LEFT_PITCH = SIDE * ROW_QUADS + 1;
const uint RIGHT_PITCH = SIDE * COLUMN_QUADS + 1;
shared vec4 left_tile[STEP * LEFT_PITCH];
shared vec4 right_tile[STEP * RIGHT_PITCH];

// Four stored elements side by side, zero past the stored matrix' end: (row, column) to (row, column + 3).
vec4 fetch_left(uint start, uint row, uint column) {
    uint rows = TRANS_A != 0 ? push.k : push.m;
    uint columns = TRANS_A != 0 ? push.m : push.k;
    uint at = start + row * push.lda + column;
    if (WIDE_A != 0 && row < rows && column + 4 <= columns) {
        return LEFT_VEC4[at / 4];
    }
    vec4 x = vec4(0.0);
    for (uint i = 0; i < 4; ++i) {
        if (row < rows && column + i < columns) {
            x[i] = LEFT[at + i];
        }
    }
    return x;
}

vec4 fetch_right(uint start, uint row, uint column) {
    uint rows = TRANS_B != 0 ? push.n : push.k;
    uint columns = TRANS_B != 0 ? push.k : push.n;
    uint at = start + row * push.ldb + column;
    if (WIDE_B != 0 && row < rows && column + 4 <= columns) {
        return RIGHT_VEC4[at / 4];
    }
    vec4 x = vec4(0.0);
    for (uint i = 0; i < 4; ++i) {
        if (row < rows && column + i < columns) {
            x[i] = RIGHT[at + i];
        }
    }
    return x;
}

// Which four elements of a share this invocation moves as its i-th: if terms lie side by side in memory, four
// terms of one row (or column), else one term of four rows. x counts along the tile, y along the terms.
uvec2 place(bool terms_side_by_side, uint tile, uint i) {
    uint index = gl_LocalInvocationIndex + i * SIDE * SIDE;
    uint quads = tile / 4;
    return terms_side_by_side ? uvec2(index / (STEP / 4), index % (STEP / 4) * 4)
                              : uvec2(index % quads * 4, index / quads);
}

// A share of STEP terms has TILE * STEP elements: one four an invocation for each quad of the tile.
void fetch_share(uint a_start, uint b_start, uvec2 corner, uint term, out vec4 left[ROW_QUADS],
                 out vec4 right[COLUMN_QUADS]) {
    for (uint i = 0; i < ROW_QUADS; ++i) {
        uvec2 at = place(TRANS_A == 0, TILE_ROWS, i) + uvec2(corner.y, term);
        left[i] = TRANS_A == 0 ? fetch_left(a_start, at.x, at.y) : fetch_left(a_start, at.y, at.x);
    }
    for (uint i = 0; i < COLUMN_QUADS; ++i) {
        uvec2 at = place(TRANS_B != 0, TILE_COLUMNS, i) + uvec2(corner.x, term);
        right[i] = TRANS_B != 0 ? fetch_right(b_start, at.x, at.y) : fetch_right(b_start, at.y, at.x);
    }
}

void store_share(vec4 left[ROW_QUADS], vec4 right[COLUMN_QUADS]) {
    for (uint i = 0; i < ROW_QUADS; ++i) {
        uvec2 at = place(TRANS_A == 0, TILE_ROWS, i);
        if (TRANS_A == 0) {
            for (uint q = 0; q < 4; ++q) {
                left_tile[(at.y + q) * LEFT_PITCH + at.x / 4][at.x % 4] = left[i][q];
            }
        } else {
            left_tile[at.y * LEFT_PITCH + at.x / 4] = left[i];
        }
    }
    for (uint i = 0; i < COLUMN_QUADS; ++i) {
        uvec2 at = place(TRANS_B != 0, TILE_COLUMNS, i);
        if (TRANS_B != 0) {
            for (uint q = 0; q < 4; ++q) {
                right_tile[(at.y + q) * RIGHT_PITCH + at.x / 4][at.x % 4] = right[i][q];
            }
        } else {
            right_tile[at.y * RIGHT_PITCH + at.x / 4] = right[i];
        }
    }
}

// Writes four elements of a row of C, as far as they are inside.
void store_result(uint c_start, uint row, uint column, vec4 total) {
    if (row >= push.m) {
        return;
    }
    vec4 result;
    for (uint i = 0; i < 4; ++i) {
        result[i] = column + i < push.n ? finished(total[i], column + i) : 0.0;
    }
    uint at = c_start + row * push.ldc + column;
    if (WIDE_C != 0 && column + 4 <= push.n) {
        RESULT_VEC4[at / 4] = result;
        return;
    }
    for (uint i = 0; i < 4; ++i) {
        if (column + i < push.n) {
            RESULT[at + i] = result[i];
        }
    }
}

void main() {
    uvec2 corner = gl_WorkGroupID.xy * uvec2(TILE_COLUMNS, TILE_ROWS);
    if (is_unwanted(corner.y + TILE_ROWS, corner.x)) {
        return;
    }
    uint a_start = batch_start(push.a_first, push.a_outer, push.a_inner);
    uint b_start = batch_start(push.b_first, push.b_outer, push.b_inner);
    uint c_start = batch_start(push.c_first, push.c_outer, push.c_inner);
    uint across = gl_LocalInvocationIndex % SIDE;
    uint down = gl_LocalInvocationIndex / SIDE;

    // Row 4 * i + r of quad column v: [(4 * i + r) * COLUMN_QUADS + v].
    vec4 sum[4 * ROW_QUADS * COLUMN_QUADS];
    vec4 total[4 * ROW_QUADS * COLUMN_QUADS];
    for (uint i = 0; i < 4 * ROW_QUADS * COLUMN_QUADS; ++i) {
        sum[i] = vec4(0.0);
        total[i] = vec4(0.0);
    }
    vec4 next_left[ROW_QUADS];
    vec4 next_right[COLUMN_QUADS];
    uint end = end_of_terms(corner.y + TILE_ROWS);
    uint first = first_term(corner.y) / STEP * STEP;
    fetch_share(a_start, b_start, corner, first, next_left, next_right);
    for (uint term = first; term < end; term += STEP) {
        barrier();
        store_share(next_left, next_right);
        barrier();
        if (term + STEP < end) {
            fetch_share(a_start, b_start, corner, term + STEP, next_left, next_right);
        }
        // Terms past k are stored as zeros.
        for (uint p = 0; p < STEP; ++p) {
            vec4 right[COLUMN_QUADS];
            for (uint v = 0; v < COLUMN_QUADS; ++v) {
                right[v] = right_tile[p * RIGHT_PITCH + v * SIDE + across];
            }
            for (uint i = 0; i < ROW_QUADS; ++i) {
                vec4 left = left_tile[p * LEFT_PITCH + i * SIDE + down];
                for (uint r = 0; r < 4; ++r) {
                    for (uint v = 0; v < COLUMN_QUADS; ++v) {
                        sum[(4 * i + r) * COLUMN_QUADS + v] += left[r] * right[v];
                    }
                }
            }
        }
        if ((term + STEP) % K_BLOCK == 0 || term + STEP >= end) {
            for (uint i = 0; i < 4 * ROW_QUADS * COLUMN_QUADS; ++i) {
                total[i] += sum[i];
                sum[i] = vec4(0.0);
            }
        }
    }
    for (uint i = 0; i < ROW_QUADS; ++i) {
        for (uint r = 0; r < 4; ++r) {
            for (uint v = 0; v < COLUMN_QUADS; ++v) {
                uint row = corner.y + (i * SIDE + down) * 4 + r;
                uint column = corner.x + (v * SIDE + across) * 4;
                store_result(c_start, row, column, total[(4 * i + r) * COLUMN_QUADS + v]);
            }
        }
    }
}
