// What the fused attention kernels on matrix units share. A workgroup's block of scores is ROW_COUNT x
// COLUMN_COUNT, in tiles of SIDE x SIDE; each subgroup owns OWN tiles of rows. The rows' factors stay in its
// matrices, and what belongs to the columns goes through shared memory in 16 bits; a matrix of it that a
// subgroup loads meets all the rows that it owns. How a device lays a matrix out over a subgroup is unknown,
// so what needs rows or columns goes through scratch memory, or takes numbers of rows and columns from
// matrices of the same kind.
//
// The including shader defines ROW_COUNT and COLUMN_COUNT; FACTOR_BF16 for factors of that type; IN_REGISTERS
// where sums become factors, and rows are reduced, without memory (conversions and reductions of
// VK_NV_cooperative_matrix2).
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_vote : require
#ifdef FACTOR_BF16
#extension GL_EXT_bfloat16 : require
#define FACTOR bfloat16_t
#else
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#define FACTOR float16_t
#endif

#include "attention.glsl"

layout(local_size_x = 128, local_size_x_id = 0) in;

#define LEFT_MATRIX coopmat<FACTOR, gl_ScopeSubgroup, SIDE, SIDE, gl_MatrixUseA>
#define RIGHT_MATRIX coopmat<FACTOR, gl_ScopeSubgroup, SIDE, SIDE, gl_MatrixUseB>
#define SUM_MATRIX coopmat<float, gl_ScopeSubgroup, SIDE, SIDE, gl_MatrixUseAccumulator>

const int ROW_MAJOR = gl_CooperativeMatrixLayoutRowMajor;
const int COLUMN_MAJOR = gl_CooperativeMatrixLayoutColumnMajor;

const uint OWN_ROWS = OWN * SIDE;
const uint UNITS = ROW_COUNT / OWN_ROWS;  // of work, a subgroup each
const uint COLUMN_TILES = COLUMN_COUNT / SIDE;
const uint DEPTH = CHANNELS / SIDE;
const uint EIGHTS = CHANNELS / 8;
const uint PITCH = EIGHTS + 1;         // of a staged row, in uvec4s: eight factors each
const uint SCRATCH_PITCH = SIDE / 4 + 1;  // of a row of sums, in vec4s
const uint PACKED_PITCH = SIDE / 8 + 1;   // of a row of factors, in uvec4s

// Scratch memory of each unit, and of all subgroups that have none. Little shared memory means many
// workgroups at a time: where it is needed only before and after the columns, it lies where those are staged.
const uint SCRATCHES = UNITS + 1;
const uint SCRATCH_SIZE = SIDE * SCRATCH_PITCH;
#ifdef IN_REGISTERS
const bool SCRATCH_APART = DROPOUT != 0 || PITCH < SCRATCH_PITCH;
#else
const bool SCRATCH_APART = true;
#endif
// Staged are a block's columns, or a tile of rows of each unit.
const uint STAGED_ROWS = 2 * COLUMN_COUNT > UNITS * SIDE ? 2 * COLUMN_COUNT : UNITS * SIDE;
const uint STAGED = STAGED_ROWS * PITCH;
shared uvec4 staged[STAGED + (SCRATCH_APART ? SCRATCHES * SCRATCH_SIZE : 0)];
shared float row_values[SCRATCHES * OWN_ROWS];
shared float numbers[SIDE];

uint scratch_of(uint unit) {
    return SCRATCH_APART ? STAGED + unit * SCRATCH_SIZE : unit * SIDE * PITCH;
}

// Whether work need be done that one subgroup may do without the others. Where subgroups meet at barriers of
// their own, all do all the work: some devices make those the workgroup's.
#ifdef IN_REGISTERS
#define NEEDED(condition) (SCRATCH_APART || (condition))
#else
#define NEEDED(condition) true
#endif

#ifdef FACTOR_BF16
float bounded(float x) {
    return x;
}

#define SCALED_SCORE(x) (x)

// The nearest number of 8 significant digits, ties to even: conversions may cut digits off instead.
float nearest(float x) {
    precise float spread = x * 65537.0;
    precise float rest = spread - x;
    precise float rounded = spread - rest;
    return rounded;
}

uint pack_two(float low, float high) {
    return floatBitsToUint(nearest(low)) >> 16 | floatBitsToUint(nearest(high)) & 0xffff0000u;
}

vec2 unpack_two(uint pair) {
    return vec2(uintBitsToFloat(pair << 16), uintBitsToFloat(pair & 0xffff0000u));
}
#else
// Finite gradients stay finite: one that is cut is worth more than the run's end.
float bounded(float x) {
    const float LARGEST = 65504.0;
    return abs(x) > LARGEST && !isinf(x) ? (x < 0.0 ? -LARGEST : LARGEST) : x;
}

#define SCALED_SCORE(x) bounded((x) * push.score_scale)

float nearest(float x) {
    return x;
}

uint pack_two(float low, float high) {
    return packHalf2x16(vec2(low, high));
}

vec2 unpack_two(uint pair) {
    return unpackHalf2x16(pair);
}
#endif

uvec4 pack_eight(vec4 a, vec4 b) {
    return uvec4(pack_two(a.x, a.y), pack_two(a.z, a.w), pack_two(b.x, b.y), pack_two(b.z, b.w));
}

vec4 bounded(vec4 x) {
    return vec4(bounded(x.x), bounded(x.y), bounded(x.z), bounded(x.w));
}

// Eight channels from `channel` on, a multiple of 8, of the position whose channels begin at `at`, as
// factors.
#define LOAD_EIGHT(name)                                                                                     \
    uvec4 load_##name(uint at, uint channel) {                                                               \
        uint n = at + channel;                                                                               \
        return PACKED != 0 ? name##_uvec4[n / 8] : pack_eight(name##_vec4[n / 4], name##_vec4[n / 4 + 1]);   \
    }

// The same of a gradient, which is scaled if it is not packed yet.
#define LOAD_EIGHT_OF_GRADIENT(name)                                                                         \
    uvec4 load_##name(uint at, uint channel) {                                                               \
        uint n = at + channel;                                                                               \
        if (PACKED != 0) return name##_uvec4[n / 8];                                                         \
        return pack_eight(bounded(name##_vec4[n / 4] * push.gradient_scale),                                 \
                          bounded(name##_vec4[n / 4 + 1] * push.gradient_scale));                            \
    }

// What a result that is a gradient is multiplied by.
float unscaled() {
    return PACKED != 0 ? 1.0 : 1.0 / push.gradient_scale;
}

// The 2 * COLUMN_COUNT rows that belong to a block's columns are staged in two parts: first they are fetched,
// then, when nobody needs the block before any more, stored; zeros past the last position. No branches, so
// that the loads overlap. fetch_eight gives eight channels of a position, of the first or the second of what
// belongs to columns.
uvec4 fetch_eight(bool second, uint position, uint channel);

const uint FETCHES = (2 * COLUMN_COUNT * EIGHTS + INVOCATIONS - 1) / INVOCATIONS;
uvec4 fetched[FETCHES];

void fetch_columns(uint first) {
    [[unroll]] for (uint f = 0; f < FETCHES; ++f) {
        uint n = f * INVOCATIONS + gl_LocalInvocationIndex;
        uint row = n / EIGHTS;
        uint position = min(first + row % COLUMN_COUNT, push.context - 1);
        fetched[f] = fetch_eight(row >= COLUMN_COUNT, position, n % EIGHTS * 8);
    }
}

void store_columns(uint first) {
    [[unroll]] for (uint f = 0; f < FETCHES; ++f) {
        uint n = f * INVOCATIONS + gl_LocalInvocationIndex;
        uint row = n / EIGHTS;
        if (2 * COLUMN_COUNT * EIGHTS % INVOCATIONS == 0 || row < 2 * COLUMN_COUNT) {
            bool there = first + row % COLUMN_COUNT < push.context;
            staged[row * PITCH + n % EIGHTS] = there ? fetched[f] : uvec4(0);
        }
    }
}

// What follows are not functions, because arrays of matrices would be copied on the way in and out.

// Loads the OWN tiles of a unit's rows from position `first` on, as left factors: all channels. Past the last
// position it is repeated.
#define LOAD_ROWS(left, load, at, first, unit)                                                               \
    [[unroll]] for (uint r_ = 0; r_ < OWN; ++r_) {                                                           \
        uint slot_ = min(unit, UNITS - 1) * SIDE * PITCH;                                                    \
        subgroupBarrier();                                                                                   \
        for (uint n_ = gl_SubgroupInvocationID; n_ < SIDE * EIGHTS; n_ += gl_SubgroupSize) {                 \
            uint position_ = min((first) + r_ * SIDE + n_ / EIGHTS, push.context - 1);                       \
            staged[slot_ + n_ / EIGHTS * PITCH + n_ % EIGHTS] = load(at(position_), n_ % EIGHTS * 8);        \
        }                                                                                                    \
        subgroupBarrier();                                                                                   \
        [[unroll]] for (uint c_ = 0; c_ < DEPTH; ++c_) {                                                     \
            coopMatLoad(left[r_ * DEPTH + c_], staged, slot_ + c_ * SIDE / 8, PITCH, ROW_MAJOR);             \
        }                                                                                                    \
    }

// sum[] += left times the transpose of AT_ONCE tiles of staged rows from `row` on: sums over all channels.
#define ADD_PRODUCTS(sum, left, row)                                                                         \
    [[unroll]] for (uint k_ = 0; k_ < AT_ONCE; ++k_) {                                                       \
        [[unroll]] for (uint c_ = 0; c_ < DEPTH; ++c_) {                                                     \
            RIGHT_MATRIX right_;                                                                             \
            uint at_ = ((row) + k_ * SIDE) * PITCH + c_ * SIDE / 8;                                          \
            coopMatLoad(right_, staged, at_, PITCH, COLUMN_MAJOR);                                           \
            [[unroll]] for (uint r_ = 0; r_ < OWN; ++r_) {                                                   \
                uint n_ = r_ * AT_ONCE + k_;                                                                 \
                sum[n_] = coopMatMulAdd(left[r_ * DEPTH + c_], right_, sum[n_]);                             \
            }                                                                                                \
        }                                                                                                    \
    }

// sum[] += left, a tile for each tile of rows, times a tile of staged rows from `row` on.
#define ADD_WEIGHTED(sum, left, row)                                                                         \
    [[unroll]] for (uint c_ = 0; c_ < DEPTH; ++c_) {                                                         \
        RIGHT_MATRIX right_;                                                                                 \
        coopMatLoad(right_, staged, (row) * PITCH + c_ * SIDE / 8, PITCH, ROW_MAJOR);                        \
        [[unroll]] for (uint r_ = 0; r_ < OWN; ++r_) {                                                       \
            uint n_ = r_ * DEPTH + c_;                                                                       \
            sum[n_] = coopMatMulAdd(left[r_], right_, sum[n_]);                                              \
        }                                                                                                    \
    }

// The memory that a subgroup's unit shares among its invocations alone.
void store_sums(SUM_MATRIX x, uint unit) {
    subgroupBarrier();
    coopMatStore(x, staged, scratch_of(unit), SCRATCH_PITCH, ROW_MAJOR);
    subgroupBarrier();
}

// Four of what was stored, from the row's column 4 * quad on.
vec4 stored_sums(uint unit, uint row, uint quad) {
    return uintBitsToFloat(staged[scratch_of(unit) + row * SCRATCH_PITCH + quad]);
}

// What row_values holds of a unit's tile r, each row's value in all columns.
SUM_MATRIX spread_over_columns(uint unit, uint r) {
    SUM_MATRIX x;
    coopMatLoad(x, row_values, unit * OWN_ROWS + r * SIDE, 0, COLUMN_MAJOR);
    return x;
}

#ifdef IN_REGISTERS
LEFT_MATRIX to_left(SUM_MATRIX x, uint unit) {
    [[unroll]] for (uint i = 0; i < x.length(); ++i) x[i] = nearest(x[i]);
    return LEFT_MATRIX(x);
}

float larger(const in float a, const in float b) {
    return max(a, b);
}

SUM_MATRIX largest_of_rows(SUM_MATRIX x, uint unit) {
    SUM_MATRIX y;
    coopMatReduceNV(y, x, gl_CooperativeMatrixReduceRowNV, larger);
    return y;
}
#else
shared uvec4 packed[SCRATCHES * SIDE * PACKED_PITCH];

// Sums as left factors, rounded.
LEFT_MATRIX to_left(SUM_MATRIX x, uint unit) {
    store_sums(x, unit);
    uint to = unit * SIDE * PACKED_PITCH;
    const uint EIGHTS_HERE = SIDE / 8;
    for (uint n = gl_SubgroupInvocationID; n < EIGHTS_HERE * SIDE; n += gl_SubgroupSize) {
        uint row = n / EIGHTS_HERE;
        uint quad = n % EIGHTS_HERE * 2;
        packed[to + row * PACKED_PITCH + n % EIGHTS_HERE] =
            pack_eight(stored_sums(unit, row, quad), stored_sums(unit, row, quad + 1));
    }
    subgroupBarrier();
    LEFT_MATRIX left;
    coopMatLoad(left, packed, to, PACKED_PITCH, ROW_MAJOR);
    return left;
}

// Each row's largest number, in all columns.
SUM_MATRIX largest_of_rows(SUM_MATRIX x, uint unit) {
    store_sums(x, unit);
    for (uint row = gl_SubgroupInvocationID; row < SIDE; row += gl_SubgroupSize) {
        vec4 four = stored_sums(unit, row, 0);
        [[unroll]] for (uint n = 1; n < SIDE / 4; ++n) four = max(four, stored_sums(unit, row, n));
        row_values[unit * OWN_ROWS + row] = max(max(four.x, four.y), max(four.z, four.w));
    }
    subgroupBarrier();
    return spread_over_columns(unit, 0);
}
#endif

// Dropout's factors of a tile of queries and keys; queries in rows, or in columns if transposed.
SUM_MATRIX dropout_tile(uvec2 step, uint first_query, uint first_key, int layout_, uint unit) {
    uint base = scratch_of(unit);
    subgroupBarrier();
    const uint QUADS_HERE = SIDE / 4;
    for (uint n = gl_SubgroupInvocationID; n < QUADS_HERE * SIDE; n += gl_SubgroupSize) {
        uint row = n / QUADS_HERE;
        uint quad = n % QUADS_HERE;
        vec4 factors = dropout_factors(step, first_query + row, first_key + 4 * quad);
        staged[base + row * SCRATCH_PITCH + quad] = floatBitsToUint(factors);
    }
    subgroupBarrier();
    SUM_MATRIX x;
    if (layout_ == ROW_MAJOR) {
        coopMatLoad(x, staged, base, SCRATCH_PITCH, ROW_MAJOR);
    } else {
        coopMatLoad(x, staged, base, SCRATCH_PITCH, COLUMN_MAJOR);
    }
    return x;
}

void write_numbers() {
    if (gl_LocalInvocationIndex < SIDE) numbers[gl_LocalInvocationIndex] = float(gl_LocalInvocationIndex);
}

// Of each element, column - row: above `first row - first column` lies what is past the diagonal.
SUM_MATRIX columns_less_rows() {
    SUM_MATRIX rows, columns;
    coopMatLoad(rows, numbers, 0, 0, COLUMN_MAJOR);
    coopMatLoad(columns, numbers, 0, 0, ROW_MAJOR);
    return columns - rows;
}

// Stores the OWN tiles of a unit's rows of sums from position `first` on, as far as there are positions. What
// is packed goes through the rows' place in the stage.
#define STORE_ROWS(name, at, sum, first, unit)                                                               \
    [[unroll]] for (uint r_ = 0; r_ < OWN; ++r_) {                                                           \
        uint slot_ = (unit) * SIDE * PITCH;                                                                  \
        subgroupBarrier();                                                                                   \
        [[unroll]] for (uint c_ = 0; c_ < DEPTH; ++c_) {                                                     \
            SUM_MATRIX x_ = sum[r_ * DEPTH + c_];                                                            \
            if (PACKED != 0) {                                                                               \
                [[unroll]] for (uint i_ = 0; i_ < x_.length(); ++i_) x_[i_] = bounded(x_[i_]);               \
                LEFT_MATRIX y_ = to_left(x_, unit);                                                          \
                if ((unit) < UNITS) coopMatStore(y_, staged, slot_ + c_ * SIDE / 8, PITCH, ROW_MAJOR);       \
            } else {                                                                                         \
                store_sums(x_, unit);                                                                        \
                for (uint n_ = gl_SubgroupInvocationID; n_ < SIDE / 4 * SIDE; n_ += gl_SubgroupSize) {       \
                    uint row_ = n_ / (SIDE / 4);                                                             \
                    uint quad_ = n_ % (SIDE / 4);                                                            \
                    uint position_ = (first) + r_ * SIDE + row_;                                             \
                    if ((unit) < UNITS && position_ < push.context) {                                        \
                        uint to_ = (at(position_) + c_ * SIDE) / 4 + quad_;                                  \
                        name##_vec4[to_] = stored_sums(unit, row_, quad_);                                   \
                    }                                                                                        \
                }                                                                                            \
            }                                                                                                \
        }                                                                                                    \
        subgroupBarrier();                                                                                   \
        if (PACKED != 0) {                                                                                   \
            for (uint n_ = gl_SubgroupInvocationID; n_ < SIDE * EIGHTS; n_ += gl_SubgroupSize) {             \
                uint position_ = (first) + r_ * SIDE + n_ / EIGHTS;                                          \
                if ((unit) < UNITS && position_ < push.context) {                                            \
                    name##_uvec4[at(position_) / 8 + n_ % EIGHTS] =                                          \
                        staged[slot_ + n_ / EIGHTS * PITCH + n_ % EIGHTS];                                   \
                }                                                                                            \
            }                                                                                                \
        }                                                                                                    \
    }
