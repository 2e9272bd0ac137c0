// The body of the products for CPU-type devices: a subgroup computes a tile of C alone, in registers, without
// shared memory or barriers. Software Vulkan moves the elements of a load one by one, so each element is
// loaded by one invocation and goes from there to all by shuffles, which are as fast as arithmetic.
//
// What a tile has past C's edges is calculated from other elements of A and B, and not stored.
//
// The including shader names the buffers: LEFT, RIGHT, RESULT (floats), LEFT_QUADS, RIGHT_QUADS, RESULT_QUADS
// (u64vec2, the same by fours), LEFT_EIGHTS, RIGHT_EIGHTS, RESULT_EIGHTS (u64vec4) and BIAS(column).

#include "eights.glsl"
#include "gemm_push.glsl"

// WIDE_A, WIDE_B and WIDE_C are 1 also where stored rows end at a multiple of four elements, and 2 where they
// start and end at multiples of eight.
layout(constant_id = 5) const uint ROWS = 32; // of a tile, a multiple of 8
layout(constant_id = 6) const uint QUADS = 2; // fours of columns that an invocation sums
layout(constant_id = 7) const uint TAIL = 1;  // the number of terms may be no multiple of STEP
layout(local_size_x = 8, local_size_x_id = 8) in;
layout(constant_id = 9) const uint ONE_BLOCK = 0; // the terms of an element are of one block

const uint LANES = gl_WorkGroupSize.x; // all of one subgroup
const uint SUMS = ROWS * QUADS;        // fours of sums of an invocation
const uint STEP = 4;                   // terms that are loaded at once
const uint LOADS = (ROWS + LANES - 1) / LANES;

// Eight rows of a term of A at once, if it is transposed, or eight columns of a term of B, if it is not.
const bool LEFT_BY_EIGHTS = TRANS_A != 0 && WIDE_A == 2;
const bool RIGHT_BY_EIGHTS = TRANS_B == 0 && WIDE_B == 2 && QUADS == 2;

vec4 quad(u64vec2 words) {
    return vec4(uintBitsToFloat(unpackUint2x32(words.x)), uintBitsToFloat(unpackUint2x32(words.y)));
}

// Where four elements, side by side from `first` on, stand in a stored row of `length`.
uvec4 quad_in_row(uint first, uint length) {
    return min(uvec4(first) + uvec4(0, 1, 2, 3), uvec4(length - 1));
}

// Where an invocation's elements stand, found before any loop: there software Vulkan reads push constants and
// multiplies addresses for all invocations at once.
uvec4 left_at[LOADS];    // term 0 of its quads of A: four terms of a row, or four (or eight) rows of a term
uint left_one_at[LOADS]; // term 0 of its rows of A, for terms that come one by one
uint left_step;          // from one term of A to the next
uvec4 right_at[QUADS];   // term 0 of its columns of B
uint right_step;

void find_places(uint row, uint column) {
    uint a_start = batch_start(push.a_first, push.a_outer, push.a_inner);
    uint b_start = batch_start(push.b_first, push.b_outer, push.b_inner);
    left_step = TRANS_A != 0 ? push.lda : 1;
    right_step = TRANS_B != 0 ? 1 : push.ldb;
    const uint TOGETHER = LEFT_BY_EIGHTS ? 8 : 4;
    [[unroll]] for (uint l = 0; l < LOADS; ++l) {
        uint index = min(l * LANES + gl_SubgroupInvocationID, ROWS - 1);
        uint i = min(row + index, push.m - 1);
        left_one_at[l] = a_start + i * (TRANS_A != 0 ? 1 : push.lda);
        if (TRANS_A == 0) {
            left_at[l] = uvec4(left_one_at[l]) + uvec4(0, 1, 2, 3);
        } else {
            // As many loads as there are: four terms of all rows.
            uint load = min(l * LANES + gl_SubgroupInvocationID, 4 * ROWS / TOGETHER - 1);
            uint line = a_start + load / (ROWS / TOGETHER) * push.lda;
            uint first = row + load % (ROWS / TOGETHER) * TOGETHER;
            left_at[l] = line + quad_in_row(WIDE_A != 0 ? min(first, push.m - TOGETHER) : first, push.m);
        }
    }
    [[unroll]] for (uint v = 0; v < QUADS; ++v) {
        uint first = column + 4 * v;
        if (RIGHT_BY_EIGHTS) {
            first = min(column, push.n - 8) + 4 * v;
        } else if (WIDE_B != 0 && TRANS_B == 0) {
            first = min(first, push.n - 4);
        }
        right_at[v] = b_start + quad_in_row(first, push.n) * (TRANS_B != 0 ? push.ldb : 1);
    }
}

// Four elements side by side; eight, where `at` is the first of so many.
vec4[2] load_left(uvec4 at) {
    if (LEFT_BY_EIGHTS) {
        u64vec4 words = LEFT_EIGHTS[at.x / 8];
        return vec4[2](quad(words.xy), quad(words.zw));
    }
    vec4 x = WIDE_A != 0 ? quad(LEFT_QUADS[at.x / 4]) : vec4(LEFT[at.x], LEFT[at.y], LEFT[at.z], LEFT[at.w]);
    return vec4[2](x, x);
}

// Four columns of a term.
vec4 load_right(uvec4 at) {
    bool wide = WIDE_B != 0 && TRANS_B == 0;
    return wide ? quad(RIGHT_QUADS[at.x / 4]) : vec4(RIGHT[at.x], RIGHT[at.y], RIGHT[at.z], RIGHT[at.w]);
}

// STEP terms of a column.
vec4 load_right_terms(uint at) {
    return WIDE_B != 0 ? quad(RIGHT_QUADS[at / 4])
                       : vec4(RIGHT[at], RIGHT[at + 1], RIGHT[at + 2], RIGHT[at + 3]);
}

// STEP terms of four columns.
void load_right_step(uvec4 at, uint step, out vec4 right[STEP]) {
    if (TRANS_B == 0) {
        [[unroll]] for (uint q = 0; q < STEP; ++q) {
            right[q] = load_right(at + q * step);
        }
        return;
    }
    vec4 column0 = load_right_terms(at.x);
    vec4 column1 = load_right_terms(at.y);
    vec4 column2 = load_right_terms(at.z);
    vec4 column3 = load_right_terms(at.w);
    right[0] = vec4(column0.x, column1.x, column2.x, column3.x);
    right[1] = vec4(column0.y, column1.y, column2.y, column3.y);
    right[2] = vec4(column0.z, column1.z, column2.z, column3.z);
    right[3] = vec4(column0.w, column1.w, column2.w, column3.w);
}

// Adds terms p to p + STEP.
void add_step(uint p, inout vec4 sum[SUMS]) {
    const uint NEEDED = LEFT_BY_EIGHTS ? (ROWS / 2 + LANES - 1) / LANES : LOADS;
    vec4 left[LOADS][2];
    [[unroll]] for (uint l = 0; l < NEEDED; ++l) {
        left[l] = load_left(left_at[l] + p * left_step);
    }
    vec4 right[QUADS][STEP];
    if (RIGHT_BY_EIGHTS) {
        [[unroll]] for (uint q = 0; q < STEP; ++q) {
            u64vec4 words = RIGHT_EIGHTS[(right_at[0].x + (p + q) * right_step) / 8];
            right[0][q] = quad(words.xy);
            right[QUADS - 1][q] = quad(words.zw);
        }
    } else {
        [[unroll]] for (uint v = 0; v < QUADS; ++v) {
            load_right_step(right_at[v] + p * right_step, right_step, right[v]);
        }
    }
    [[unroll]] for (uint i = 0; i < ROWS; ++i) {
        [[unroll]] for (uint q = 0; q < STEP; ++q) {
            uint load = LEFT_BY_EIGHTS ? q * (ROWS / 8) + i / 8 : TRANS_A == 0 ? i : q * (ROWS / 4) + i / 4;
            uint part = TRANS_A == 0 ? q : i % 4;
            float x = subgroupShuffle(left[load / LANES][i / 4 % 2][part], load % LANES);
            [[unroll]] for (uint v = 0; v < QUADS; ++v) {
                sum[i * QUADS + v] += x * right[v][q];
            }
        }
    }
}

// Adds term p, where there are fewer than STEP.
void add_term(uint p, inout vec4 sum[SUMS]) {
    float left[LOADS];
    [[unroll]] for (uint l = 0; l < LOADS; ++l) {
        left[l] = LEFT[left_one_at[l] + p * left_step];
    }
    vec4 right[QUADS];
    [[unroll]] for (uint v = 0; v < QUADS; ++v) {
        right[v] = load_right(right_at[v] + p * right_step);
    }
    [[unroll]] for (uint i = 0; i < ROWS; ++i) {
        float x = subgroupShuffle(left[i / LANES], i % LANES);
        [[unroll]] for (uint v = 0; v < QUADS; ++v) {
            sum[i * QUADS + v] += x * right[v];
        }
    }
}

// Adds terms p to `end`.
void add_terms(uint p, uint end, inout vec4 sum[SUMS]) {
    for (; p + STEP <= end; p += STEP) {
        add_step(p, sum);
    }
    for (; TAIL != 0 && p < end; ++p) {
        add_term(p, sum);
    }
}

// Stores a row's four columns, of n, from their values.
void store(uint at, uint column, uint n, vec4 x) {
    if (WIDE_C != 0) {
        if (column < n) {
            RESULT_QUADS[(at + column) / 4] = u64vec2(pair(x.x, x.y), pair(x.z, x.w));
        }
        return;
    }
    [[unroll]] for (uint i = 0; i < 4; ++i) {
        if (column + i < n) {
            RESULT[at + column + i] = x[i];
        }
    }
}

// The same of all an invocation's columns.
void store_row(uint at, uint column, uint n, vec4 x[QUADS]) {
    if (WIDE_C == 2 && QUADS == 2) {
        vec4 y = x[QUADS - 1];
        if (column < n) {
            RESULT_EIGHTS[(at + column) / 8] =
                u64vec4(pair(x[0].x, x[0].y), pair(x[0].z, x[0].w), pair(y.x, y.y), pair(y.z, y.w));
        }
        return;
    }
    [[unroll]] for (uint v = 0; v < QUADS; ++v) {
        store(at, column + 4 * v, n, x[v]);
    }
}

// Elements of C from the sums of their terms.
vec4 finished_quad(vec4 total, vec4 added) {
    if (push.causal == CAUSAL_BLOCKS) {
        return total;
    }
    vec4 x = total + added;
    return vec4(snap(x.x), snap(x.y), snap(x.z), snap(x.w));
}

void main() {
    // Workgroups that follow each other go down the same columns of B, which so stay in a cache.
    uint row = gl_WorkGroupID.x * ROWS;
    uint first_column = gl_WorkGroupID.y * LANES * 4 * QUADS;
    uint column = first_column + gl_SubgroupInvocationID * 4 * QUADS;
    bool wanted = !is_unwanted(row + ROWS, first_column);
    find_places(row, column);
    uint c_start = batch_start(push.c_first, push.c_outer, push.c_inner);
    uint first = first_term(row) / STEP * STEP;
    uint end = wanted ? end_of_terms(row + ROWS) : 0;
    uint m = push.m;
    uint n = push.n;
    uint ldc = push.ldc;
    vec4 total[SUMS];
    [[unroll]] for (uint i = 0; i < SUMS; ++i) {
        total[i] = vec4(0.0);
    }
    if (ONE_BLOCK != 0) {
        // The total of one sum that is not -0 is that sum.
        add_terms(first, end, total);
    } else {
        for (uint block = first / K_BLOCK * K_BLOCK; block < end; block += K_BLOCK) {
            vec4 sum[SUMS];
            [[unroll]] for (uint i = 0; i < SUMS; ++i) {
                sum[i] = vec4(0.0);
            }
            add_terms(max(block, first), min(block + K_BLOCK, end), sum);
            [[unroll]] for (uint i = 0; i < SUMS; ++i) {
                total[i] += sum[i];
            }
        }
    }
    vec4 added[QUADS];
    [[unroll]] for (uint v = 0; v < QUADS; ++v) {
        uvec4 from = quad_in_row(column + 4 * v, n);
        added[v] = vec4(BIAS(from.x), BIAS(from.y), BIAS(from.z), BIAS(from.w));
    }
    [[unroll]] for (uint i = 0; i < ROWS; ++i) {
        if (wanted && row + i < m) {
            vec4 x[QUADS];
            [[unroll]] for (uint v = 0; v < QUADS; ++v) {
                x[v] = finished_quad(total[i * QUADS + v], added[v]);
            }
            store_row(c_start + (row + i) * ldc, column, n, x);
        }
    }
}
