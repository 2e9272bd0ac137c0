// How the sums of a subgroup become elements of C: by way of shared memory, a row of two matrices at a time, so
// that an invocation writes eight or four elements side by side.

layout(std430, set = 0, binding = 3) readonly buffer BiasQuads { vec4 bias_vec4[]; };

const uint WIDE = C_PACKED != 0 ? 8 : 4; // elements that are written at once
const uint WIDES = STAGED_COLUMNS / WIDE; // of a staged row: no more than a subgroup has invocations

// Eight elements of a row, of which the last four count for nothing if C is not packed.
struct Eight {
    vec4 low;
    vec4 high;
};

// Orders what a subgroup puts into shared memory and what it takes from there.
void exchange() {
    controlBarrier(gl_ScopeSubgroup, gl_ScopeSubgroup, gl_StorageSemanticsShared, gl_SemanticsAcquireRelease);
}

// Puts a matrix of sums into the subgroup's staging, `across` matrices from its left end.
void stage(SUM sum, uint across) {
    uint at = gl_SubgroupID * (SIDE * STAGED_PITCH) + across * (SIDE / 4);
    coopMatStore(sum, tile, at, STAGED_PITCH, ROW_MAJOR);
}

vec4 quad_of_bias(bool inside, uint column) {
    if (push.use_bias == 0) {
        return vec4(0.0);
    }
    if (inside || column + 4 <= push.n) {
        return bias_vec4[column / 4];
    }
    vec4 x = vec4(0.0);
    [[unroll]] for (uint e = 0; e < 4; ++e) {
        if (column + e < push.n) {
            x[e] = bias[column + e];
        }
    }
    return x;
}

// What is added to the elements that this invocation writes, all of the same columns, from this one on.
Eight eight_of_bias(bool inside, uint column) {
    return Eight(quad_of_bias(inside, column), C_PACKED != 0 ? quad_of_bias(inside, column + 4) : vec4(0.0));
}

// Elements of C from what is staged of them. Rounded to 16 bits, tiny ones need no snapping, and gemm_finish
// finishes what is summed block by block.
vec4 finished_quad(uint at, vec4 bias) {
    vec4 x = uintBitsToFloat(tile[at]);
    x = (SCALED != 0 ? x * push.c_scale : x) + bias;
    float snapped = C_PACKED != 0 || push.causal == CAUSAL_BLOCKS ? 0.0 : SNAP_BELOW;
    return mix(x, vec4(0.0), lessThan(abs(x), vec4(snapped)));
}

// Writes eight elements, or four, of which an edge cuts some off. A packed row has an even number of columns.
void store_cut(Eight x, uint row, uint column, uint at) {
    if (row >= push.m) {
        return;
    }
    if (C_PACKED != 0) {
        uvec4 halves = rounded(x.low, x.high, push.out_scale);
        [[unroll]] for (uint e = 0; e < 4; ++e) {
            if (column + 2 * e < push.n) {
                c_uint[at / 2 + e] = halves[e];
            }
        }
    } else {
        [[unroll]] for (uint e = 0; e < 4; ++e) {
            if (column + e < push.n) {
                c[at + e] = x.low[e];
            }
        }
    }
}

// Writes what the subgroup has staged. `inside` if no edge cuts it off.
void store_staged(bool inside, uint c_start, uint first_row, uint column, Eight bias) {
    uint line = gl_SubgroupInvocationID / WIDES;
    uint from = gl_SubgroupID * (SIDE * STAGED_PITCH) + gl_SubgroupInvocationID % WIDES * (WIDE / 4);
    for (; line < SIDE; line += gl_SubgroupSize / WIDES) {
        uint row = first_row + line;
        uint at = c_start + row * push.ldc + column;
        Eight x;
        x.low = finished_quad(from + line * STAGED_PITCH, bias.low);
        x.high = C_PACKED != 0 ? finished_quad(from + line * STAGED_PITCH + 1, bias.high) : vec4(0.0);
        if (inside || (WIDE_C != 0 && row < push.m && column + WIDE <= push.n)) {
            if (C_PACKED != 0) {
                c_uvec4[at / 8] = rounded(x.low, x.high, push.out_scale);
            } else {
                c_vec4[at / 4] = x.low;
            }
        } else {
            store_cut(x, row, column, at);
        }
    }
}

// Writes matrix (i, j) of the sums, and the one beside it if two are staged at a time.
#define SUM_AT(i, j) sum[((i) * COLUMN_MATRICES + (j)) % (ROW_MATRICES * COLUMN_MATRICES)]
#define STORE(i, j) \
    if (i < ROW_MATRICES && j * STAGED_ACROSS < COLUMN_MATRICES) { \
        stage(SUM_AT(i, j * STAGED_ACROSS), 0); \
        if (STAGED_ACROSS == 2) { \
            stage(SUM_AT(i, j * STAGED_ACROSS + 1), 1); \
        } \
        exchange(); \
        store_staged(inside, c_start, corner.y + row + i * SIDE, c_column, c_bias); \
        exchange(); \
    }

// The same of all rows of these columns, whose bias is fetched once.
#define STORE_COLUMNS(j) \
    if (j * STAGED_ACROSS < COLUMN_MATRICES) { \
        uint c_column = \
            corner.x + column + j * STAGED_COLUMNS + gl_SubgroupInvocationID % WIDES * WIDE; \
        Eight c_bias = eight_of_bias(inside, c_column); \
        STORE(0, j) \
        STORE(1, j) \
        STORE(2, j) \
        STORE(3, j) \
    }
