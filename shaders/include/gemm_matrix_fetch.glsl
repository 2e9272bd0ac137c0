// How the factors come into shared memory: eight 16-bit floats at a time, by way of registers.

// A share lies in shared memory as it does in memory, in eights of elements (uvec4): lines of stored rows,
// side by side where they are short (lines / FOLD of them), and one eight more, so that the lines of a matrix
// meet different banks, and so do the eights that are stored at one time.
const int ROW_MAJOR = gl_CooperativeMatrixLayoutRowMajor;
const int COLUMN_MAJOR = gl_CooperativeMatrixLayoutColumnMajor;

const uint LEFT_LINES = TRANS_A != 0 ? STEP : TILE_ROWS;
const uint LEFT_OCTS = (TRANS_A != 0 ? TILE_ROWS : STEP) / 8;
const uint LEFT_FOLDS = LEFT_OCTS >= 8 ? 1 : 8 / LEFT_OCTS;
const uint LEFT_FOLD = LEFT_FOLDS * SIDE <= LEFT_LINES ? LEFT_FOLDS : LEFT_LINES / SIDE;
const uint LEFT_FOLDED = LEFT_LINES / LEFT_FOLD;
const uint LEFT_WIDTH = LEFT_OCTS * LEFT_FOLD;
const uint LEFT_PITCH = LEFT_WIDTH + 1;
const uint LEFT_SHARE = LEFT_FOLDED * LEFT_PITCH;
const uint LEFT_FETCHES = TILE_ROWS * STEP / (8 * INVOCATIONS);
const uint LEFT_UNIT = A_PACKED != 0 && WIDE_A != 0 ? 8 : 1; // elements that places are counted in
const int LEFT_LAYOUT = TRANS_A != 0 ? COLUMN_MAJOR : ROW_MAJOR;

const uint RIGHT_LINES = TRANS_B != 0 ? TILE_COLUMNS : STEP;
const uint RIGHT_OCTS = (TRANS_B != 0 ? STEP : TILE_COLUMNS) / 8;
const uint RIGHT_FOLDS = RIGHT_OCTS >= 8 ? 1 : 8 / RIGHT_OCTS;
const uint RIGHT_FOLD = RIGHT_FOLDS * SIDE <= RIGHT_LINES ? RIGHT_FOLDS : RIGHT_LINES / SIDE;
const uint RIGHT_FOLDED = RIGHT_LINES / RIGHT_FOLD;
const uint RIGHT_WIDTH = RIGHT_OCTS * RIGHT_FOLD;
const uint RIGHT_PITCH = RIGHT_WIDTH + 1;
const uint RIGHT_SHARE = RIGHT_FOLDED * RIGHT_PITCH;
const uint RIGHT_FETCHES = TILE_COLUMNS * STEP / (8 * INVOCATIONS);
const uint RIGHT_UNIT = B_PACKED != 0 && WIDE_B != 0 ? 8 : 1; // elements that places are counted in
const int RIGHT_LAYOUT = TRANS_B != 0 ? COLUMN_MAJOR : ROW_MAJOR;

const uint SHARE = LEFT_SHARE + RIGHT_SHARE;

#define SUM coopmat<float, gl_ScopeSubgroup, SIDE, SIDE, gl_MatrixUseAccumulator>

// What a subgroup stages of C at a time: a row of matrices, each line two quads longer than it is, so that what
// is stored at one time meets different banks.
const uint STAGED_ACROSS = COLUMN_MATRICES % 2 == 0 ? 2 : 1;
const uint STAGED_COLUMNS = STAGED_ACROSS * SIDE;
const uint STAGED_PITCH = STAGED_COLUMNS / 4 + 2;
const uint STAGING = SUBGROUPS * SIDE * STAGED_PITCH;

shared uvec4 tile[SHARE > STAGING ? SHARE : STAGING];

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
    return rounded(low, high);
}

uint half_of(uint pair, uint at) {
    return at % 2 == 0 ? pair & 0xffff : pair >> 16;
}

// Stored row and column, and place in memory, of the first eight that this invocation fetches next.
uvec2 left_first;
uvec2 right_first;
uint left_from;
uint right_from;

// Eight stored elements side by side, as 16-bit floats, zero past the stored matrix' end.
uvec4 fetch_left(uint lines) {
    uint from = left_from + lines * (push.lda / LEFT_UNIT);
    if (WHOLE != 0) {
        return A_PACKED != 0
            ? a_uvec4[LEFT_UNIT == 8 ? from : from / 8]
            : rounded(a_vec4[from / 4], a_vec4[from / 4 + 1], push.a_scale);
    }
    uvec2 first = left_first + uvec2(lines, 0);
    uvec2 end = TRANS_A != 0 ? uvec2(push.k, push.m) : uvec2(push.m, push.k);
    if (WIDE_A != 0 && first.x < end.x && first.y + 8 <= end.y) {
        return A_PACKED != 0
            ? a_uvec4[LEFT_UNIT == 8 ? from : from / 8]
            : rounded(a_vec4[from / 4], a_vec4[from / 4 + 1], push.a_scale);
    }
    uint at = from * LEFT_UNIT;
    vec4 x[2] = vec4[2](vec4(0.0), vec4(0.0));
    uvec4 halves = uvec4(0);
    [[unroll]] for (uint i = 0; i < 8; ++i) {
        if (first.x < end.x && first.y + i < end.y) {
            if (A_PACKED != 0) {
                halves[i / 2] |= half_of(a_uint[(at + i) / 2], at + i) << (i % 2 * 16);
            } else {
                x[i / 4][i % 4] = a[at + i];
            }
        }
    }
    return A_PACKED != 0 ? halves : rounded(x[0], x[1], push.a_scale);
}

// Eight stored elements side by side, as 16-bit floats, zero past the stored matrix' end.
uvec4 fetch_right(uint lines) {
    uint from = right_from + lines * (push.ldb / RIGHT_UNIT);
    if (WHOLE != 0) {
        return B_PACKED != 0
            ? b_uvec4[RIGHT_UNIT == 8 ? from : from / 8]
            : rounded(b_vec4[from / 4], b_vec4[from / 4 + 1], push.b_scale);
    }
    uvec2 first = right_first + uvec2(lines, 0);
    uvec2 end = TRANS_B != 0 ? uvec2(push.n, push.k) : uvec2(push.k, push.n);
    if (WIDE_B != 0 && first.x < end.x && first.y + 8 <= end.y) {
        return B_PACKED != 0
            ? b_uvec4[RIGHT_UNIT == 8 ? from : from / 8]
            : rounded(b_vec4[from / 4], b_vec4[from / 4 + 1], push.b_scale);
    }
    uint at = from * RIGHT_UNIT;
    vec4 x[2] = vec4[2](vec4(0.0), vec4(0.0));
    uvec4 halves = uvec4(0);
    [[unroll]] for (uint i = 0; i < 8; ++i) {
        if (first.x < end.x && first.y + i < end.y) {
            if (B_PACKED != 0) {
                halves[i / 2] |= half_of(b_uint[(at + i) / 2], at + i) << (i % 2 * 16);
            } else {
                x[i / 4][i % 4] = b[at + i];
            }
        }
    }
    return B_PACKED != 0 ? halves : rounded(x[0], x[1], push.b_scale);
}

void begin_at(uvec2 corner, uint term) {
    uint slot = gl_LocalInvocationIndex % LEFT_WIDTH;
    uint line = gl_LocalInvocationIndex / LEFT_WIDTH + slot / LEFT_OCTS * LEFT_FOLDED;
    left_first = TRANS_A != 0 ? uvec2(term, corner.y) : uvec2(corner.y, term);
    left_first += uvec2(line, slot % LEFT_OCTS * 8);
    uint start = batch_start(push.a_first, push.a_outer, push.a_inner);
    left_from = (start + left_first.x * push.lda + left_first.y) / LEFT_UNIT;

    slot = gl_LocalInvocationIndex % RIGHT_WIDTH;
    line = gl_LocalInvocationIndex / RIGHT_WIDTH + slot / RIGHT_OCTS * RIGHT_FOLDED;
    right_first = TRANS_B != 0 ? uvec2(corner.x, term) : uvec2(term, corner.x);
    right_first += uvec2(line, slot % RIGHT_OCTS * 8);
    start = batch_start(push.b_first, push.b_outer, push.b_inner);
    right_from = (start + right_first.x * push.ldb + right_first.y) / RIGHT_UNIT;
}

uvec4 next_left[LEFT_FETCHES];
uvec4 next_right[RIGHT_FETCHES];

// Fetches the next share into registers.
void fetch_share() {
    [[unroll]] for (uint i = 0; i < LEFT_FETCHES; ++i) {
        next_left[i] = fetch_left(i * (INVOCATIONS / LEFT_WIDTH));
    }
    [[unroll]] for (uint i = 0; i < RIGHT_FETCHES; ++i) {
        next_right[i] = fetch_right(i * (INVOCATIONS / RIGHT_WIDTH));
    }
    left_first += uvec2(TRANS_A != 0 ? STEP : 0, TRANS_A != 0 ? 0 : STEP);
    right_first += uvec2(TRANS_B != 0 ? 0 : STEP, TRANS_B != 0 ? STEP : 0);
    left_from += TRANS_A != 0 ? STEP * (push.lda / LEFT_UNIT) : STEP / LEFT_UNIT;
    right_from += TRANS_B != 0 ? STEP / RIGHT_UNIT : STEP * (push.ldb / RIGHT_UNIT);
}

// Puts what was fetched into shared memory.
void store_share() {
    uint slot = gl_LocalInvocationIndex % LEFT_WIDTH;
    uint at = gl_LocalInvocationIndex / LEFT_WIDTH * LEFT_PITCH + slot;
    [[unroll]] for (uint i = 0; i < LEFT_FETCHES; ++i) {
        tile[at + i * (INVOCATIONS / LEFT_WIDTH * LEFT_PITCH)] = next_left[i];
    }
    slot = gl_LocalInvocationIndex % RIGHT_WIDTH;
    at = LEFT_SHARE + gl_LocalInvocationIndex / RIGHT_WIDTH * RIGHT_PITCH + slot;
    [[unroll]] for (uint i = 0; i < RIGHT_FETCHES; ++i) {
        tile[at + i * (INVOCATIONS / RIGHT_WIDTH * RIGHT_PITCH)] = next_right[i];
    }
}

// Where a matrix begins: `along` the tile's rows or columns, `term` terms into the share. The place of
// a sum is the sum of places, as a subgroup's part is as long as a power of two.
uint left_at(uint along, uint term) {
    uvec2 place = TRANS_A != 0 ? uvec2(term, along) : uvec2(along, term);
    uint octs = place.x / LEFT_FOLDED * LEFT_OCTS + place.y / 8;
    return place.x % LEFT_FOLDED * LEFT_PITCH + octs;
}

uint right_at(uint along, uint term) {
    uvec2 place = TRANS_B != 0 ? uvec2(along, term) : uvec2(term, along);
    uint octs = place.x / RIGHT_FOLDED * RIGHT_OCTS + place.y / 8;
    return LEFT_SHARE + place.x % RIGHT_FOLDED * RIGHT_PITCH + octs;
}
