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

// Where the totals of the blocks of terms stand until the last: 0 in registers, 1 in the result's own memory,
// which leaves registers for a second workgroup on the same multiprocessor.
layout(constant_id = 7) const uint TOTALS_IN_RESULT = 0;
const uint QUADS = 4 * ROW_QUADS * COLUMN_QUADS;
const uint TOTALS = TOTALS_IN_RESULT != 0 ? 1 : QUADS;

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

// Four elements of a row of C, as far as they are inside: the totals of the blocks before, where they stand
// there meanwhile.
vec4 fetch_total(uint c_start, uint row, uint column) {
    uint at = c_start + row * push.ldc + column;
    if (WIDE_C != 0 && row < push.m && column + 4 <= push.n) {
        return RESULT_VEC4[at / 4];
    }
    vec4 x = vec4(0.0);
    for (uint i = 0; i < 4; ++i) {
        if (row < push.m && column + i < push.n) {
            x[i] = RESULT[at + i];
        }
    }
    return x;
}

void store(uint c_start, uint row, uint column, vec4 x) {
    if (row >= push.m) {
        return;
    }
    uint at = c_start + row * push.ldc + column;
    if (WIDE_C != 0 && column + 4 <= push.n) {
        RESULT_VEC4[at / 4] = x;
        return;
    }
    for (uint i = 0; i < 4; ++i) {
        if (column + i < push.n) {
            RESULT[at + i] = x[i];
        }
    }
}

vec4 finished_quad(vec4 total, uint column) {
    vec4 result;
    for (uint i = 0; i < 4; ++i) {
        result[i] = column + i < push.n ? finished(total[i], column + i) : 0.0;
    }
    return result;
}

// Where this invocation's element [4 * i + r][v] of quads stands in C.
uvec2 result_place(uvec2 corner, uint i, uint r, uint v) {
    uint across = gl_LocalInvocationIndex % SIDE;
    uint down = gl_LocalInvocationIndex / SIDE;
    return uvec2(corner.x + (v * SIDE + across) * 4, corner.y + (i * SIDE + down) * 4 + r);
}

// A block of terms is summed: adds it to the totals, and finishes the elements if it was the last.
void end_block(uint c_start, uvec2 corner, bool first, bool last, inout vec4 sum[QUADS], inout vec4 total[TOTALS]) {
    for (uint i = 0; i < ROW_QUADS; ++i) {
        for (uint r = 0; r < 4; ++r) {
            for (uint v = 0; v < COLUMN_QUADS; ++v) {
                uint q = (4 * i + r) * COLUMN_QUADS + v;
                uvec2 at = result_place(corner, i, r, v);
                vec4 x = sum[q];
                sum[q] = vec4(0.0);
                if (TOTALS_IN_RESULT == 0) {
                    total[q] += x;
                    x = total[q];
                } else if (!first) {
                    x = fetch_total(c_start, at.y, at.x) + x;
                }
                if (last) {
                    store(c_start, at.y, at.x, finished_quad(x, at.x));
                } else if (TOTALS_IN_RESULT != 0) {
                    store(c_start, at.y, at.x, x);
                }
            }
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
    vec4 sum[QUADS];
    vec4 total[TOTALS];
    for (uint q = 0; q < QUADS; ++q) {
        sum[q] = vec4(0.0);
    }
    for (uint q = 0; q < TOTALS; ++q) {
        total[q] = vec4(0.0);
    }
    vec4 next_left[ROW_QUADS];
    vec4 next_right[COLUMN_QUADS];
    uint end = end_of_terms(corner.y + TILE_ROWS);
    uint first = first_term(corner.y) / STEP * STEP;
    bool first_block = true;
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
        bool last = term + STEP >= end;
        if (last || (term + STEP) % K_BLOCK == 0) {
            end_block(c_start, corner, first_block, last, sum, total);
            first_block = false;
        }
    }
}
