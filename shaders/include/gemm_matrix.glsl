// The body of the products on matrix units: a workgroup computes a tile of C, with A's and B's share of a few
// terms in shared memory, rounded to 16 bits on the way there, the next share on its way in registers, and the
// sums of each subgroup in small matrices.
//
// The including shader names the factors' type, FACTOR, and rounds two floats into a word: rounded(vec2).

#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_shader_subgroup_basic : require
#pragma use_vulkan_memory_model

#include "exact.glsl"

layout(std430, set = 0, binding = 0) readonly buffer A { float a[]; };       // [m, k], or [k, m] if TRANS_A
layout(std430, set = 0, binding = 1) readonly buffer B { float b[]; };       // [k, n], or [n, k] if TRANS_B
layout(std430, set = 0, binding = 2) writeonly buffer C { float c[]; };      // [m, n]
layout(std430, set = 0, binding = 3) readonly buffer Bias { float bias[]; }; // [n]
layout(std430, set = 0, binding = 0) readonly buffer AQuads { vec4 a_vec4[]; };
layout(std430, set = 0, binding = 1) readonly buffer BQuads { vec4 b_vec4[]; };
// The same as pairs of 16-bit floats, if they are PACKED: four pairs, and one.
layout(std430, set = 0, binding = 0) readonly buffer AOcts { uvec4 a_uvec4[]; };
layout(std430, set = 0, binding = 1) readonly buffer BOcts { uvec4 b_uvec4[]; };
layout(std430, set = 0, binding = 0) readonly buffer APairs { uint a_uint[]; };
layout(std430, set = 0, binding = 1) readonly buffer BPairs { uint b_uint[]; };
layout(std430, set = 0, binding = 2) writeonly buffer CQuads { vec4 c_vec4[]; };
layout(std430, set = 0, binding = 2) writeonly buffer COcts { uvec4 c_uvec4[]; };
layout(std430, set = 0, binding = 2) writeonly buffer CPairs { uint c_uint[]; };

#define BIAS(column) (push.use_bias != 0 ? bias[column] : 0.0)
#define SCALED_FACTORS
#include "gemm_free.glsl"

layout(constant_id = 9) const uint ROW_MATRICES = 4; // matrices down and across that a subgroup sums
layout(constant_id = 10) const uint COLUMN_MATRICES = 4;
layout(constant_id = 11) const uint STEP = 32;  // terms of a share, a multiple of SIDE
layout(constant_id = 12) const uint SHARES = 2; // shares in shared memory: 1 or 2
layout(constant_id = 13) const uint A_PACKED = 0;
layout(constant_id = 14) const uint B_PACKED = 0;
layout(constant_id = 15) const uint SCALED = 0; // the scales are not all one
layout(constant_id = 16) const uint SIDE = 16; // rows, columns and terms of the matrices, 8 or 16
layout(constant_id = 17) const uint INVOCATIONS = 128;
layout(local_size_x_id = 18) in; // the same; at least as many subgroups as SUBGROUPS
layout(constant_id = 19) const uint C_PACKED = 0;
layout(constant_id = 20) const uint AHEAD = 1;
layout(constant_id = 21) const uint STAGED = 0;
layout(constant_id = 22) const uint SPARE = 1;

const uint SUBGROUPS_ACROSS = TILE_COLUMNS / (SIDE * COLUMN_MATRICES);
const uint SUBGROUPS = TILE_ROWS / (SIDE * ROW_MATRICES) * SUBGROUPS_ACROSS;

// A share lies in shared memory as it does in memory: lines of stored rows, in eights of elements (uvec4), and
// one more, so that the lines of a matrix meet different banks.
const uint LEFT_LINES = TRANS_A != 0 ? STEP : TILE_ROWS;
const uint LEFT_OCTS = (TRANS_A != 0 ? TILE_ROWS : STEP) / 8;
const uint LEFT_PITCH = LEFT_OCTS + 1;
const uint LEFT_SHARE = LEFT_LINES * LEFT_PITCH;
const uint LEFT_FETCHES = TILE_ROWS * STEP / (8 * INVOCATIONS);
const int LEFT_LAYOUT = TRANS_A != 0 ? gl_CooperativeMatrixLayoutColumnMajor : gl_CooperativeMatrixLayoutRowMajor;

const uint RIGHT_LINES = TRANS_B != 0 ? TILE_COLUMNS : STEP;
const uint RIGHT_OCTS = (TRANS_B != 0 ? STEP : TILE_COLUMNS) / 8;
const uint RIGHT_PITCH = RIGHT_OCTS + 1;
const uint RIGHT_SHARE = RIGHT_LINES * RIGHT_PITCH;
const uint RIGHT_FETCHES = TILE_COLUMNS * STEP / (8 * INVOCATIONS);
const int RIGHT_LAYOUT = TRANS_B != 0 ? gl_CooperativeMatrixLayoutColumnMajor : gl_CooperativeMatrixLayoutRowMajor;

// What a subgroup stages of C at a time: a row of its matrices, in fours of elements, and one more in a line.
const uint STAGED_COLUMNS = COLUMN_MATRICES * SIDE;
const uint STAGED_PITCH = STAGED_COLUMNS / 4 + 1;
const uint STAGING = SIDE * STAGED_PITCH;

const uint RIGHT_BASE = SHARES * LEFT_SHARE;
const uint TILE_WORDS = SHARES * (LEFT_SHARE + RIGHT_SHARE);
shared uvec4 tile[TILE_WORDS > SUBGROUPS * STAGING ? TILE_WORDS : SUBGROUPS * STAGING];

// Finite numbers stay finite: a scaled gradient is worth more than the run's end.
float scaled(float x, float scale) {
    float y = x * scale;
    return is_finite(x) ? limit(y, 65504.0) : y;
}

uvec4 rounded(vec4 low, vec4 high, float scale) {
    if (SCALED != 0) {
        [[unroll]] for (uint i = 0; i < 4; ++i) {
            low[i] = scaled(low[i], scale);
            high[i] = scaled(high[i], scale);
        }
    }
    return uvec4(rounded(low.xy), rounded(low.zw), rounded(high.xy), rounded(high.zw));
}

uint half_of(uint pair, uint at) {
    return at % 2 == 0 ? pair & 0xffff : pair >> 16;
}

// Eight stored elements side by side, as 16-bit floats, zero past the stored matrix' end.
uvec4 fetch_left(uint start, uint row, uint column) {
    uint rows = TRANS_A != 0 ? push.k : push.m;
    uint columns = TRANS_A != 0 ? push.m : push.k;
    uint at = start + row * push.lda + column;
    if (WHOLE != 0 || (WIDE_A != 0 && row < rows && column + 8 <= columns)) {
        return A_PACKED != 0 ? a_uvec4[at / 8] : rounded(a_vec4[at / 4], a_vec4[at / 4 + 1], push.a_scale);
    }
    vec4 x[2] = vec4[2](vec4(0.0), vec4(0.0));
    uvec4 halves = uvec4(0);
    [[unroll]] for (uint i = 0; i < 8; ++i) {
        if (row < rows && column + i < columns) {
            if (A_PACKED != 0) {
                halves[i / 2] |= half_of(a_uint[(at + i) / 2], at + i) << (i % 2 * 16);
            } else {
                x[i / 4][i % 4] = a[at + i];
            }
        }
    }
    return A_PACKED != 0 ? halves : rounded(x[0], x[1], push.a_scale);
}

uvec4 fetch_right(uint start, uint row, uint column) {
    uint rows = TRANS_B != 0 ? push.n : push.k;
    uint columns = TRANS_B != 0 ? push.k : push.n;
    uint at = start + row * push.ldb + column;
    if (WHOLE != 0 || (WIDE_B != 0 && row < rows && column + 8 <= columns)) {
        return B_PACKED != 0 ? b_uvec4[at / 8] : rounded(b_vec4[at / 4], b_vec4[at / 4 + 1], push.b_scale);
    }
    vec4 x[2] = vec4[2](vec4(0.0), vec4(0.0));
    uvec4 halves = uvec4(0);
    [[unroll]] for (uint i = 0; i < 8; ++i) {
        if (row < rows && column + i < columns) {
            if (B_PACKED != 0) {
                halves[i / 2] |= half_of(b_uint[(at + i) / 2], at + i) << (i % 2 * 16);
            } else {
                x[i / 4][i % 4] = b[at + i];
            }
        }
    }
    return B_PACKED != 0 ? halves : rounded(x[0], x[1], push.b_scale);
}

uvec4 next_left[LEFT_FETCHES];
uvec4 next_right[RIGHT_FETCHES];

void fetch_share(uint a_start, uint b_start, uvec2 corner, uint term) {
    [[unroll]] for (uint i = 0; i < LEFT_FETCHES; ++i) {
        uint index = gl_LocalInvocationIndex + i * INVOCATIONS;
        uvec2 first = TRANS_A != 0 ? uvec2(term, corner.y) : uvec2(corner.y, term);
        next_left[i] = fetch_left(a_start, first.x + index / LEFT_OCTS, first.y + index % LEFT_OCTS * 8);
    }
    [[unroll]] for (uint i = 0; i < RIGHT_FETCHES; ++i) {
        uint index = gl_LocalInvocationIndex + i * INVOCATIONS;
        uvec2 first = TRANS_B != 0 ? uvec2(corner.x, term) : uvec2(term, corner.x);
        next_right[i] = fetch_right(b_start, first.x + index / RIGHT_OCTS, first.y + index % RIGHT_OCTS * 8);
    }
}

void store_share(uint share) {
    [[unroll]] for (uint i = 0; i < LEFT_FETCHES; ++i) {
        uint index = gl_LocalInvocationIndex + i * INVOCATIONS;
        tile[share * LEFT_SHARE + index / LEFT_OCTS * LEFT_PITCH + index % LEFT_OCTS] = next_left[i];
    }
    [[unroll]] for (uint i = 0; i < RIGHT_FETCHES; ++i) {
        uint index = gl_LocalInvocationIndex + i * INVOCATIONS;
        tile[RIGHT_BASE + share * RIGHT_SHARE + index / RIGHT_OCTS * RIGHT_PITCH + index % RIGHT_OCTS] = next_right[i];
    }
}

// Where a matrix of a share begins: `along` the tile's rows or columns, `term` terms into the share.
uint left_at(uint share, uint along, uint term) {
    return share * LEFT_SHARE + (TRANS_A != 0 ? term * LEFT_PITCH + along / 8 : along * LEFT_PITCH + term / 8);
}

uint right_at(uint share, uint along, uint term) {
    return RIGHT_BASE + share * RIGHT_SHARE + (TRANS_B != 0 ? along * RIGHT_PITCH + term / 8 : term * RIGHT_PITCH + along / 8);
}

#define SUM coopmat<float, gl_ScopeSubgroup, SIDE, SIDE, gl_MatrixUseAccumulator>

// An element of C from what is staged of it.
float staged(uint at, uint e, uint column) {
    float total = uintBitsToFloat(tile[at + e / 4][e % 4]);
    return finished(SCALED != 0 ? total * push.c_scale : total, column + e);
}

// Writes what the subgroup has staged: eights of elements side by side, each in one go where no edge cuts it off
// and, if C is packed, rows have an even number of columns.
void store_staged(bool inside, uint c_start, uint row, uint column) {
    const uint across = STAGED_COLUMNS / 8;
    for (uint i = gl_SubgroupInvocationID; i < SIDE * across; i += gl_SubgroupSize) {
        uint r = row + i / across;
        uint col = column + i % across * 8;
        uint at = c_start + r * push.ldc + col;
        uint from = gl_SubgroupID * STAGING + i / across * STAGED_PITCH + i % across * 2;
        if (r >= push.m || col >= push.n) {
            continue;
        }
        vec4 x[2];
        [[unroll]] for (uint e = 0; e < 8; ++e) {
            x[e / 4][e % 4] = col + e < push.n ? staged(from, e, col) : 0.0;
        }
        bool whole = inside || (WIDE_C != 0 && col + 8 <= push.n);
        if (C_PACKED != 0) {
            uvec4 halves = rounded(x[0], x[1], push.out_scale);
            if (whole) {
                c_uvec4[at / 8] = halves;
            } else {
                [[unroll]] for (uint e = 0; e < 8; e += 2) {
                    if (col + e < push.n) c_uint[(at + e) / 2] = halves[e / 2];
                }
            }
        } else if (whole) {
            c_vec4[at / 4] = x[0];
            c_vec4[at / 4 + 1] = x[1];
        } else {
            [[unroll]] for (uint e = 0; e < 8; ++e) {
                if (col + e < push.n) c[at + e] = x[e / 4][e % 4];
            }
        }
    }
}

// Writes a matrix that lies in C as a whole, in rows that start at multiples of four.
void store_whole(SUM sum, uint c_start, uint row, uint column) {
    if (push.use_bias != 0) {
        SUM row_of_bias;
        coopMatLoad(row_of_bias, bias, column, 0, gl_CooperativeMatrixLayoutRowMajor);
        sum = (SCALED != 0 ? sum * push.c_scale : sum) + row_of_bias;
    }
    bool scaled_already = push.use_bias != 0;
    for (uint i = 0; i < sum.length(); ++i) {
        float total = SCALED != 0 && !scaled_already ? sum[i] * push.c_scale : sum[i];
        sum[i] = push.causal == CAUSAL_BLOCKS ? total : snap(total);
    }
    coopMatStore(sum, c, c_start + row * push.ldc + column, push.ldc, gl_CooperativeMatrixLayoutRowMajor);
}

void main() {
    uvec2 corner = tile_corner();
    if (is_unwanted(corner.y + TILE_ROWS, corner.x)) {
        return;
    }
    uint a_start = batch_start(push.a_first, push.a_outer, push.a_inner);
    uint b_start = batch_start(push.b_first, push.b_outer, push.b_inner);
    uint c_start = batch_start(push.c_first, push.c_outer, push.c_inner);
    bool sums = gl_SubgroupID < SUBGROUPS;
    uint row = gl_SubgroupID / SUBGROUPS_ACROSS * (SIDE * ROW_MATRICES);
    uint column = gl_SubgroupID % SUBGROUPS_ACROSS * (SIDE * COLUMN_MATRICES);

    SUM sum[ROW_MATRICES * COLUMN_MATRICES];
    [[unroll]] for (uint i = 0; i < ROW_MATRICES * COLUMN_MATRICES; ++i) {
        sum[i] = SUM(0.0);
    }
    uint end = end_of_terms(corner.y + TILE_ROWS);
    uint first = first_term(corner.y) / STEP * STEP;
    uint share = 0;
    fetch_share(a_start, b_start, corner, first);
    store_share(share);
    barrier();
    for (uint term = first; term < end; term += STEP) {
        bool more = term + STEP < end;
        if (more) {
            fetch_share(a_start, b_start, corner, term + STEP);
        }
        if (sums) {
            // Terms past the operands' ends are stored as zeros.
            [[unroll]] for (uint p = 0; p < STEP; p += SIDE) {
                coopmat<FACTOR, gl_ScopeSubgroup, SIDE, SIDE, gl_MatrixUseA> left[ROW_MATRICES];
                [[unroll]] for (uint i = 0; i < ROW_MATRICES; ++i) {
                    coopMatLoad(left[i], tile, left_at(share, row + i * SIDE, p), LEFT_PITCH, LEFT_LAYOUT);
                }
                [[unroll]] for (uint j = 0; j < COLUMN_MATRICES; ++j) {
                    coopmat<FACTOR, gl_ScopeSubgroup, SIDE, SIDE, gl_MatrixUseB> right;
                    coopMatLoad(right, tile, right_at(share, column + j * SIDE, p), RIGHT_PITCH, RIGHT_LAYOUT);
                    [[unroll]] for (uint i = 0; i < ROW_MATRICES; ++i) {
                        uint at = i * COLUMN_MATRICES + j;
                        sum[at] = coopMatMulAdd(left[i], right, sum[at]);
                    }
                }
            }
        }
        if (SHARES == 1) {
            barrier();
        } else {
            share ^= 1;
        }
        if (more) {
            store_share(share);
        }
        barrier();
    }
    bool inside = WHOLE != 0
        || (WIDE_C != 0 && corner.y + TILE_ROWS <= push.m && corner.x + TILE_COLUMNS <= push.n);
    if (!sums) {
        return;
    }
    [[unroll]] for (uint i = 0; i < ROW_MATRICES; ++i) {
        uint r = corner.y + row + i * SIDE;
        uint col = corner.x + column;
        if (C_PACKED == 0 && STAGED == 0 && inside) {
            [[unroll]] for (uint j = 0; j < COLUMN_MATRICES; ++j) {
                store_whole(sum[i * COLUMN_MATRICES + j], c_start, r, col + j * SIDE);
            }
        } else {
            [[unroll]] for (uint j = 0; j < COLUMN_MATRICES; ++j) {
                uint at = gl_SubgroupID * STAGING + j * (SIDE / 4);
                coopMatStore(sum[i * COLUMN_MATRICES + j], tile, at, STAGED_PITCH, gl_CooperativeMatrixLayoutRowMajor);
            }
            subgroupBarrier();
            store_staged(inside, c_start, r, col);
            subgroupBarrier();
        }
    }
}
