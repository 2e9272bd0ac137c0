// The body of the products for CPU-type devices: an invocation computes a tile of C alone, in registers,
// without shared memory or barriers. Rows follow from the workgroup alone, so that a workgroup's
// invocations read the same elements of A.
//
// The including shader names the buffers: LEFT, RIGHT, RESULT (floats), LEFT_VEC4, RIGHT_VEC4,
// RESULT_VEC4 (the same, by fours) and BIAS(column).

#include "gemm_push.glsl"

layout(local_size_x = 8) in;

const uint ROWS = 8;            // of an invocation's tile
const uint QUADS = 2;           // fours of columns of an invocation's tile
const uint COLUMNS = 4 * QUADS;
const uint STEP = 4;            // terms that are loaded at once

vec4 load_left(uint at) {
    return WIDE_A != 0 ? LEFT_VEC4[at / 4] : vec4(LEFT[at], LEFT[at + 1], LEFT[at + 2], LEFT[at + 3]);
}

vec4 load_right(uint at) {
    return WIDE_B != 0 ? RIGHT_VEC4[at / 4] : vec4(RIGHT[at], RIGHT[at + 1], RIGHT[at + 2], RIGHT[at + 3]);
}

uint left_at(uint start, uint row, uint term) {
    return start + (TRANS_A != 0 ? term * push.lda + row : row * push.lda + term);
}

uint right_at(uint start, uint term, uint column) {
    return start + (TRANS_B != 0 ? column * push.ldb + term : term * push.ldb + column);
}

// Terms p to p + STEP of the tile's rows: left[i][q] is term p + q of row i.
void load_left_step(uint a_start, uint row, uint p, out vec4 left[ROWS]) {
    if (TRANS_A == 0) {
        for (uint i = 0; i < ROWS; ++i) {
            left[i] = load_left(left_at(a_start, row + i, p));
        }
        return;
    }
    for (uint i = 0; i < ROWS; i += 4) {
        vec4 term0 = load_left(left_at(a_start, row + i, p));
        vec4 term1 = load_left(left_at(a_start, row + i, p + 1));
        vec4 term2 = load_left(left_at(a_start, row + i, p + 2));
        vec4 term3 = load_left(left_at(a_start, row + i, p + 3));
        left[i] = vec4(term0.x, term1.x, term2.x, term3.x);
        left[i + 1] = vec4(term0.y, term1.y, term2.y, term3.y);
        left[i + 2] = vec4(term0.z, term1.z, term2.z, term3.z);
        left[i + 3] = vec4(term0.w, term1.w, term2.w, term3.w);
    }
}

// Terms p to p + STEP of the tile's columns: right[q * QUADS + v] is term p + q of four columns.
void load_right_step(uint b_start, uint column, uint p, out vec4 right[STEP * QUADS]) {
    for (uint v = 0; v < QUADS; ++v) {
        uint j = column + 4 * v;
        if (TRANS_B == 0) {
            for (uint q = 0; q < STEP; ++q) {
                right[q * QUADS + v] = load_right(right_at(b_start, p + q, j));
            }
        } else {
            vec4 column0 = load_right(right_at(b_start, p, j));
            vec4 column1 = load_right(right_at(b_start, p, j + 1));
            vec4 column2 = load_right(right_at(b_start, p, j + 2));
            vec4 column3 = load_right(right_at(b_start, p, j + 3));
            right[v] = vec4(column0.x, column1.x, column2.x, column3.x);
            right[QUADS + v] = vec4(column0.y, column1.y, column2.y, column3.y);
            right[2 * QUADS + v] = vec4(column0.z, column1.z, column2.z, column3.z);
            right[3 * QUADS + v] = vec4(column0.w, column1.w, column2.w, column3.w);
        }
    }
}

// A tile that C's edges cut off. What lies past them is calculated from what lies before, and not stored. Term
// by term for all elements, because software drivers end an invocation after 65,535 steps of all its loops.
void multiply_cut_tile(uint row, uint column, uint a_start, uint b_start, uint c_start) {
    uint first = first_term(row);
    uint end = end_of_terms(row + ROWS);
    vec4 total[ROWS * QUADS];
    for (uint i = 0; i < ROWS * QUADS; ++i) {
        total[i] = vec4(0.0);
    }
    for (uint block = first / K_BLOCK * K_BLOCK; block < end; block += K_BLOCK) {
        uint block_end = min(block + K_BLOCK, end);
        vec4 sum[ROWS * QUADS];
        for (uint i = 0; i < ROWS * QUADS; ++i) {
            sum[i] = vec4(0.0);
        }
        for (uint p = max(block, first); p < block_end; ++p) {
            vec4 right[QUADS];
            for (uint v = 0; v < QUADS; ++v) {
                uvec4 j = min(uvec4(column + 4 * v) + uvec4(0, 1, 2, 3), uvec4(push.n - 1));
                right[v] = vec4(RIGHT[right_at(b_start, p, j.x)], RIGHT[right_at(b_start, p, j.y)],
                                RIGHT[right_at(b_start, p, j.z)], RIGHT[right_at(b_start, p, j.w)]);
            }
            for (uint i = 0; i < ROWS; ++i) {
                float left = LEFT[left_at(a_start, min(row + i, push.m - 1), p)];
                for (uint v = 0; v < QUADS; ++v) {
                    sum[i * QUADS + v] += left * right[v];
                }
            }
        }
        for (uint i = 0; i < ROWS * QUADS; ++i) {
            total[i] += sum[i];
        }
    }
    for (uint i = 0; i < ROWS; ++i) {
        for (uint v = 0; v < QUADS; ++v) {
            for (uint w = 0; w < 4; ++w) {
                uint j = column + 4 * v + w;
                if (row + i < push.m && j < push.n) {
                    RESULT[c_start + (row + i) * push.ldc + j] = finished(total[i * QUADS + v][w], j);
                }
            }
        }
    }
}

// A tile that lies in C as a whole.
void multiply_whole_tile(uint row, uint column, uint a_start, uint b_start, uint c_start) {
    uint first = first_term(row) / STEP * STEP;
    uint end = end_of_terms(row + ROWS);
    vec4 total[ROWS * QUADS];
    for (uint i = 0; i < ROWS * QUADS; ++i) {
        total[i] = vec4(0.0);
    }
    for (uint block = first / K_BLOCK * K_BLOCK; block < end; block += K_BLOCK) {
        uint block_end = min(block + K_BLOCK, end);
        vec4 sum[ROWS * QUADS];
        for (uint i = 0; i < ROWS * QUADS; ++i) {
            sum[i] = vec4(0.0);
        }
        uint p = max(block, first);
        for (; p + STEP <= block_end; p += STEP) {
            vec4 left[ROWS];
            vec4 right[STEP * QUADS];
            load_left_step(a_start, row, p, left);
            load_right_step(b_start, column, p, right);
            for (uint q = 0; q < STEP; ++q) {
                for (uint i = 0; i < ROWS; ++i) {
                    for (uint v = 0; v < QUADS; ++v) {
                        sum[i * QUADS + v] += left[i][q] * right[q * QUADS + v];
                    }
                }
            }
        }
        for (; p < block_end; ++p) {
            for (uint v = 0; v < QUADS; ++v) {
                uint j = column + 4 * v;
                vec4 right = vec4(RIGHT[right_at(b_start, p, j)], RIGHT[right_at(b_start, p, j + 1)],
                                  RIGHT[right_at(b_start, p, j + 2)], RIGHT[right_at(b_start, p, j + 3)]);
                for (uint i = 0; i < ROWS; ++i) {
                    sum[i * QUADS + v] += LEFT[left_at(a_start, row + i, p)] * right;
                }
            }
        }
        for (uint i = 0; i < ROWS * QUADS; ++i) {
            total[i] += sum[i];
        }
    }
    for (uint v = 0; v < QUADS; ++v) {
        uint j = column + 4 * v;
        for (uint i = 0; i < ROWS; ++i) {
            vec4 x = total[i * QUADS + v];
            vec4 result = vec4(finished(x.x, j), finished(x.y, j + 1), finished(x.z, j + 2), finished(x.w, j + 3));
            uint at = c_start + (row + i) * push.ldc + j;
            if (WIDE_C != 0) {
                RESULT_VEC4[at / 4] = result;
            } else {
                RESULT[at] = result.x;
                RESULT[at + 1] = result.y;
                RESULT[at + 2] = result.z;
                RESULT[at + 3] = result.w;
            }
        }
    }
}

void main() {
    uint row = gl_WorkGroupID.y * ROWS;
    uint column = (gl_WorkGroupID.x * gl_WorkGroupSize.x + gl_LocalInvocationID.x) * COLUMNS;
    if (column >= push.n || is_unwanted(row + ROWS, column)) {
        return;
    }
    uint a_start = batch_start(push.a_first, push.a_outer, push.a_inner);
    uint b_start = batch_start(push.b_first, push.b_outer, push.b_inner);
    uint c_start = batch_start(push.c_first, push.c_outer, push.c_inner);
    if (row + ROWS <= push.m && column + COLUMNS <= push.n) {
        multiply_whole_tile(row, column, a_start, b_start, c_start);
    } else {
        multiply_cut_tile(row, column, a_start, b_start, c_start);
    }
}
