#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_shader_subgroup_basic : require
#pragma use_vulkan_memory_model
#pragma hlx fast
// The f32 matrix product on matrix units, C = A * B + bias, of factors that are split into two 16-bit floats
// an element: high * high + high * low + low * high.
//
// A workgroup computes a tile of C, with A's and B's share of a few terms in shared memory, the next
// share on its way in registers. Units cut digits off when they add to a sum, so they add up CHUNK terms
// only, and these sums are added up as plain floats.

#include "exact.glsl"
#include "halves.glsl"

// [m, k], or [k, m] if TRANS_A: of every eight elements of a row the high parts, then the low parts.
layout(std430, set = 0, binding = 0) readonly buffer A { uvec4 a[]; };
layout(std430, set = 0, binding = 1) readonly buffer B { uvec4 b[]; };       // [k, n], or [n, k] if TRANS_B
layout(std430, set = 0, binding = 2) writeonly buffer C { float c[]; };      // [m, n]
layout(std430, set = 0, binding = 3) readonly buffer Bias { float bias[]; }; // [n]
layout(std430, set = 0, binding = 4) readonly buffer LargestA { uint a_largest[]; }; // [1]
layout(std430, set = 0, binding = 5) readonly buffer LargestB { uint b_largest[]; }; // [1]

#define BIAS(column) (push.use_bias != 0 ? bias[column] : 0.0)
#include "gemm_free.glsl"

layout(constant_id = 9) const uint ROW_MATRICES = 4; // matrices down and across that a subgroup sums
layout(constant_id = 10) const uint COLUMN_MATRICES = 4;
layout(constant_id = 11) const uint STEP = 32;  // terms of a share, a multiple of SIDE
layout(constant_id = 12) const uint SHARES = 1; // shares in shared memory: 1 or 2
layout(constant_id = 13) const uint CHUNK = 16; // a multiple of SIDE; divides STEP or is a multiple of it
layout(constant_id = 14) const uint LOW_SHIFT = 11; // low parts are times 2^LOW_SHIFT; 0 if CHUNK > STEP
layout(constant_id = 15) const uint AHEAD = 1;  // the next share is fetched before this one is multiplied
layout(constant_id = 16) const uint SIDE = 16;  // rows, columns and terms of the matrices, 8 or 16
layout(constant_id = 17) const uint INVOCATIONS = 128;
layout(local_size_x_id = 18) in; // the same; at least as many subgroups as SUBGROUPS

const uint SUBGROUPS_ACROSS = TILE_COLUMNS / (SIDE * COLUMN_MATRICES);
const uint SUBGROUPS = TILE_ROWS / (SIDE * ROW_MATRICES) * SUBGROUPS_ACROSS;

// A share lies in shared memory as lines of stored rows, in eights of elements (uvec4), and one more, so that
// the lines of a matrix meet different banks: the high parts, then the low parts, elsewhere in the banks.
#define BY_ROWS gl_CooperativeMatrixLayoutRowMajor
#define BY_COLUMNS gl_CooperativeMatrixLayoutColumnMajor
const uint LEFT_LINES = TRANS_A != 0 ? STEP : TILE_ROWS;
const uint LEFT_OCTS = (TRANS_A != 0 ? TILE_ROWS : STEP) / 8;
const uint LEFT_PITCH = LEFT_OCTS + 1;
const uint LEFT_LOW = (LEFT_LINES * LEFT_PITCH + 7) / 8 * 8 + (LEFT_OCTS == 2 ? 6 : 4);
const uint LEFT_SHARE = LEFT_LOW + LEFT_LINES * LEFT_PITCH;
const uint LEFT_FETCHES = TILE_ROWS * STEP / (4 * INVOCATIONS);
const int LEFT_LAYOUT = TRANS_A != 0 ? BY_COLUMNS : BY_ROWS;

const uint RIGHT_LINES = TRANS_B != 0 ? TILE_COLUMNS : STEP;
const uint RIGHT_OCTS = (TRANS_B != 0 ? STEP : TILE_COLUMNS) / 8;
const uint RIGHT_PITCH = RIGHT_OCTS + 1;
const uint RIGHT_LOW = (RIGHT_LINES * RIGHT_PITCH + 7) / 8 * 8 + (RIGHT_OCTS == 2 ? 6 : 4);
const uint RIGHT_SHARE = RIGHT_LOW + RIGHT_LINES * RIGHT_PITCH;
const uint RIGHT_FETCHES = TILE_COLUMNS * STEP / (4 * INVOCATIONS);
const int RIGHT_LAYOUT = TRANS_B != 0 ? BY_COLUMNS : BY_ROWS;

const uint STAGED = SUBGROUPS * SIDE * SIDE / 4;
shared uvec4 left_tile[SHARES * LEFT_SHARE > STAGED ? SHARES * LEFT_SHARE : STAGED];
shared uvec4 right_tile[SHARES * RIGHT_SHARE];

// Four words of a stored row, zero past the stored matrix' end. Rows are whole eights.
uvec4 fetch_left(uint start, uint row, uint column, uint quad) {
    uint rows = TRANS_A != 0 ? push.k : push.m;
    uint columns = TRANS_A != 0 ? push.m : push.k;
    uint at = (start + row * push.lda + column) / 4 + quad;
    bool inside = WHOLE != 0 || (row < rows && column + 4 * quad < columns);
    return inside ? a[at] : uvec4(0);
}

uvec4 fetch_right(uint start, uint row, uint column, uint quad) {
    uint rows = TRANS_B != 0 ? push.n : push.k;
    uint columns = TRANS_B != 0 ? push.k : push.n;
    uint at = (start + row * push.ldb + column) / 4 + quad;
    bool inside = WHOLE != 0 || (row < rows && column + 4 * quad < columns);
    return inside ? b[at] : uvec4(0);
}

uvec4 next_left[LEFT_FETCHES];
uvec4 next_right[RIGHT_FETCHES];

void fetch_share(uint a_start, uint b_start, uvec2 corner, uint term) {
    uvec2 first = TRANS_A != 0 ? uvec2(term, corner.y) : uvec2(corner.y, term);
    [[unroll]] for (uint i = 0; i < LEFT_FETCHES; ++i) {
        uint index = gl_LocalInvocationIndex + i * INVOCATIONS;
        uint quads = 2 * LEFT_OCTS;
        next_left[i] = fetch_left(a_start, first.x + index / quads, first.y, index % quads);
    }
    first = TRANS_B != 0 ? uvec2(corner.x, term) : uvec2(term, corner.x);
    [[unroll]] for (uint i = 0; i < RIGHT_FETCHES; ++i) {
        uint index = gl_LocalInvocationIndex + i * INVOCATIONS;
        uint quads = 2 * RIGHT_OCTS;
        next_right[i] = fetch_right(b_start, first.x + index / quads, first.y, index % quads);
    }
}

void store_share(uint share) {
    [[unroll]] for (uint i = 0; i < LEFT_FETCHES; ++i) {
        uint index = gl_LocalInvocationIndex + i * INVOCATIONS;
        uint place = index / (2 * LEFT_OCTS) * LEFT_PITCH + index % (2 * LEFT_OCTS) / 2;
        left_tile[share * LEFT_SHARE + index % 2 * LEFT_LOW + place] = next_left[i];
    }
    [[unroll]] for (uint i = 0; i < RIGHT_FETCHES; ++i) {
        uint index = gl_LocalInvocationIndex + i * INVOCATIONS;
        uint place = index / (2 * RIGHT_OCTS) * RIGHT_PITCH + index % (2 * RIGHT_OCTS) / 2;
        right_tile[share * RIGHT_SHARE + index % 2 * RIGHT_LOW + place] = next_right[i];
    }
}

// Where a matrix of a share begins: `along` the tile's rows or columns, `term` terms into the share.
uint left_at(uint share, uint along, uint term) {
    uint inside = TRANS_A != 0 ? term * LEFT_PITCH + along / 8 : along * LEFT_PITCH + term / 8;
    return share * LEFT_SHARE + inside;
}

uint right_at(uint share, uint along, uint term) {
    uint inside = TRANS_B != 0 ? along * RIGHT_PITCH + term / 8 : term * RIGHT_PITCH + along / 8;
    return share * RIGHT_SHARE + inside;
}

#define SUM coopmat<float, gl_ScopeSubgroup, SIDE, SIDE, gl_MatrixUseAccumulator>
#define LEFT coopmat<float16_t, gl_ScopeSubgroup, SIDE, SIDE, gl_MatrixUseA>
#define RIGHT coopmat<float16_t, gl_ScopeSubgroup, SIDE, SIDE, gl_MatrixUseB>

// Chunks end within a share.
const bool SHORT_CHUNKS = CHUNK <= STEP;
const uint DEPTH = SHORT_CHUNKS ? CHUNK / SIDE : 1;

SUM sum[ROW_MATRICES * COLUMN_MATRICES];
SUM chunk[ROW_MATRICES * (SHORT_CHUNKS ? 1 : COLUMN_MATRICES)];

// Where the chunk's sum of a matrix of C is.
uint chunk_at(uint i, uint j) {
    return SHORT_CHUNKS ? i : i * COLUMN_MATRICES + j;
}

// Adds the products of one share. What is small goes first: it is cut off less then.
void multiply_share(uint share, uint row, uint column) {
    // Terms past the operands' ends are stored as zeros.
    [[unroll]] for (uint p = 0; p < STEP; p += DEPTH * SIDE) {
        LEFT left_high[ROW_MATRICES * DEPTH];
        LEFT left_low[ROW_MATRICES * DEPTH];
        [[unroll]] for (uint i = 0; i < ROW_MATRICES; ++i) {
            [[unroll]] for (uint d = 0; d < DEPTH; ++d) {
                uint at = left_at(share, row + i * SIDE, p + d * SIDE);
                coopMatLoad(left_high[i * DEPTH + d], left_tile, at, LEFT_PITCH, LEFT_LAYOUT);
                coopMatLoad(left_low[i * DEPTH + d], left_tile, at + LEFT_LOW, LEFT_PITCH, LEFT_LAYOUT);
            }
        }
        [[unroll]] for (uint j = 0; j < COLUMN_MATRICES; ++j) {
            RIGHT right_high[DEPTH];
            RIGHT right_low[DEPTH];
            [[unroll]] for (uint d = 0; d < DEPTH; ++d) {
                uint at = right_at(share, column + j * SIDE, p + d * SIDE);
                coopMatLoad(right_high[d], right_tile, at, RIGHT_PITCH, RIGHT_LAYOUT);
                coopMatLoad(right_low[d], right_tile, at + RIGHT_LOW, RIGHT_PITCH, RIGHT_LAYOUT);
            }
            [[unroll]] for (uint d = 0; d < DEPTH; ++d) {
                [[unroll]] for (uint i = 0; i < ROW_MATRICES; ++i) {
                    uint to = chunk_at(i, j);
                    if (SHORT_CHUNKS && d == 0) {
                        chunk[to] = coopMatMulAdd(left_low[i * DEPTH + d], right_high[d], SUM(0.0));
                    } else {
                        chunk[to] = coopMatMulAdd(left_low[i * DEPTH + d], right_high[d], chunk[to]);
                    }
                }
                [[unroll]] for (uint i = 0; i < ROW_MATRICES; ++i) {
                    uint to = chunk_at(i, j);
                    chunk[to] = coopMatMulAdd(left_high[i * DEPTH + d], right_low[d], chunk[to]);
                }
            }
            if (LOW_SHIFT != 0) {
                [[unroll]] for (uint i = 0; i < ROW_MATRICES; ++i) {
                    chunk[chunk_at(i, j)] = chunk[chunk_at(i, j)] * power_of_two(-int(LOW_SHIFT));
                }
            }
            [[unroll]] for (uint d = 0; d < DEPTH; ++d) {
                [[unroll]] for (uint i = 0; i < ROW_MATRICES; ++i) {
                    uint to = chunk_at(i, j);
                    chunk[to] = coopMatMulAdd(left_high[i * DEPTH + d], right_high[d], chunk[to]);
                }
            }
            if (SHORT_CHUNKS) {
                [[unroll]] for (uint i = 0; i < ROW_MATRICES; ++i) {
                    sum[i * COLUMN_MATRICES + j] += chunk[chunk_at(i, j)];
                }
            }
        }
    }
}

// Adds the chunk's sums to the totals and starts another chunk.
void end_chunk() {
    [[unroll]] for (uint i = 0; i < ROW_MATRICES * (SHORT_CHUNKS ? 1 : COLUMN_MATRICES); ++i) {
        sum[i] += chunk[i];
        chunk[i] = SUM(0.0);
    }
}

// Writes a matrix of C that an edge may cut off, element by element, by way of the subgroup's own part of
// shared memory. All subgroups of a workgroup come here as often.
void store_cut(SUM total, bool sums, uint c_start, uint row, uint column) {
    uint staging = gl_SubgroupID * (SIDE * SIDE / 4);
    if (sums) {
        coopMatStore(total, left_tile, staging, SIDE / 4, gl_CooperativeMatrixLayoutRowMajor);
    }
    barrier();
    for (uint i = gl_SubgroupInvocationID; i < SIDE * SIDE; i += gl_SubgroupSize) {
        uint r = row + i / SIDE;
        uint col = column + i % SIDE;
        if (sums && r < push.m && col < push.n) {
            float x = uintBitsToFloat(left_tile[staging + i / 4][i % 4]);
            c[c_start + r * push.ldc + col] = finished(x, col);
        }
    }
    barrier();
}

// Writes a matrix that lies in C as a whole, in rows that start at multiples of four.
void store_whole(SUM total, uint c_start, uint row, uint column) {
    if (push.use_bias != 0) {
        SUM row_of_bias;
        coopMatLoad(row_of_bias, bias, column, 0, gl_CooperativeMatrixLayoutRowMajor);
        total += row_of_bias;
    }
    for (uint i = 0; i < total.length(); ++i) {
        total[i] = push.causal == CAUSAL_BLOCKS ? total[i] : snap(total[i]);
    }
    coopMatStore(total, c, c_start + row * push.ldc + column, push.ldc, gl_CooperativeMatrixLayoutRowMajor);
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

    [[unroll]] for (uint i = 0; i < ROW_MATRICES * COLUMN_MATRICES; ++i) {
        sum[i] = SUM(0.0);
    }
    [[unroll]] for (uint i = 0; i < ROW_MATRICES * (SHORT_CHUNKS ? 1 : COLUMN_MATRICES); ++i) {
        chunk[i] = SUM(0.0);
    }
    uint end = end_of_terms(corner.y + TILE_ROWS);
    uint first = first_term(corner.y) / STEP * STEP;
    uint share = 0;
    fetch_share(a_start, b_start, corner, first);
    store_share(share);
    barrier();
    for (uint term = first; term < end; term += STEP) {
        bool more = term + STEP < end;
        if (AHEAD != 0 && more) {
            fetch_share(a_start, b_start, corner, term + STEP);
        }
        if (sums) {
            multiply_share(share, row, column);
            if (!SHORT_CHUNKS && ((term + STEP - first) % CHUNK == 0 || !more)) {
                end_chunk();
            }
        }
        if (SHARES == 1) {
            barrier();
        } else {
            share ^= 1;
        }
        if (AHEAD == 0 && more) {
            fetch_share(a_start, b_start, corner, term + STEP);
        }
        if (more) {
            store_share(share);
        }
        barrier();
    }
    bool inside = WHOLE != 0
        || (WIDE_C != 0 && corner.y + TILE_ROWS <= push.m && corner.x + TILE_COLUMNS <= push.n);
    // In two steps: the whole scale may not be a number where the scaled sum is one.
    int exponent = -shift_of(a_largest[0]) - shift_of(b_largest[0]);
    float scale = power_of_two(exponent / 2);
    float rest = power_of_two(exponent - exponent / 2);
    [[unroll]] for (uint i = 0; i < ROW_MATRICES; ++i) {
        [[unroll]] for (uint j = 0; j < COLUMN_MATRICES; ++j) {
            uint r = corner.y + row + i * SIDE;
            uint col = corner.x + column + j * SIDE;
            SUM total = sum[i * COLUMN_MATRICES + j] * scale * rest;
            if (!inside) {
                store_cut(total, sums, c_start, r, col);
            } else if (sums) {
                store_whole(total, c_start, r, col);
            }
        }
    }
}
