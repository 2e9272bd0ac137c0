// The body of the products for GPUs: a workgroup computes a tile of C, with A's and B's share of a few terms
// in shared memory, the next share on its way in registers, and the sums of each invocation in registers. Every
// TERMS_AT_A_TIME terms the sums are added to what C holds, and start again.
//
// The including shader names the buffers: LEFT, RIGHT, RESULT (floats), LEFT_VEC4, RIGHT_VEC4, RESULT_VEC4 (the
// same, by fours) and BIAS(column); and says what MULTIPLY_ADD(x, y, sum) and TERMS_AT_A_TIME are.

layout(constant_id = 9) const uint ROW_QUADS = 2; // fours of rows and of columns that an invocation sums
layout(constant_id = 10) const uint COLUMN_QUADS = 2;
layout(constant_id = 11) const uint STEP = 16;         // terms of a share, a multiple of 8
layout(constant_id = 12) const uint SHARES = 2;        // shares in shared memory: 1 or 2
layout(constant_id = 13) const uint NEAR_ACROSS = 8;   // invocations side by side that count on next to each other
layout(constant_id = 14) const uint UNROLLED = 16;     // terms whose sums are written out, a divisor of STEP
layout(constant_id = 16) const uint ORDER = 0; // of a term's products, 0: by rows; 1: in strips four columns wide, by
                                               // rows; 2: in squares of four by four, by columns
layout(local_size_x_id = 15) in;                       // one for each tile of 4 ROW_QUADS x 4 COLUMN_QUADS

const uint DOWN = TILE_ROWS / (4 * ROW_QUADS); // invocations along the sides of a tile, multiples of 8
const uint ACROSS = TILE_COLUMNS / (4 * COLUMN_QUADS);
const uint INVOCATIONS = DOWN * ACROSS;
const uint LEFT_FETCHES = TILE_ROWS * STEP / (4 * INVOCATIONS);
const uint RIGHT_FETCHES = TILE_COLUMNS * STEP / (4 * INVOCATIONS);
const uint LEFT_QUADS = TILE_ROWS / 4;
const uint RIGHT_QUADS = TILE_COLUMNS / 4;
const uint SUMS = 4 * ROW_QUADS * COLUMN_QUADS;

// [share][term][row / 4] and [share][term][column / 4], in an order that swizzled() gives.
shared vec4 left_tile[SHARES * STEP * LEFT_QUADS];
shared vec4 right_tile[SHARES * STEP * RIGHT_QUADS];

// Where the quad of a term stands in its row: so that fours of terms, when they come side by side and are
// stored one below the other, meet different banks.
uint swizzled(uint quad, uint term) {
    return quad ^ (term & 4);
}

// Which of four elements side by side lie inside a stored matrix.
bvec4 inside(uint row, uint column, uint rows, uint columns) {
    return lessThan(uvec4(column) + uvec4(0, 1, 2, 3), uvec4(row < rows ? columns : 0));
}

// Four stored elements side by side, zero past the stored matrix' end: (row, column) to (row, column + 3). What
// lies outside is read from the start instead: a load that no branch guards can be on its way during the maths.
vec4 fetch_left(uint start, uint row, uint column) {
    uint at = start + row * push.lda + column;
    if (WHOLE != 0) {
        return LEFT_VEC4[at / 4];
    }
    uint columns = TRANS_A != 0 ? push.m : push.k;
    bvec4 some = inside(row, column, TRANS_A != 0 ? push.k : push.m, columns);
    vec4 x;
    if (WIDE_A != 0 && columns % 4 == 0) {
        x = LEFT_VEC4[(some.x ? at : start) / 4];
    } else {
        [[unroll]] for (uint i = 0; i < 4; ++i) {
            x[i] = LEFT[some[i] ? at + i : start];
        }
    }
    return mix(vec4(0.0), x, some);
}

vec4 fetch_right(uint start, uint row, uint column) {
    uint at = start + row * push.ldb + column;
    if (WHOLE != 0) {
        return RIGHT_VEC4[at / 4];
    }
    uint columns = TRANS_B != 0 ? push.k : push.n;
    bvec4 some = inside(row, column, TRANS_B != 0 ? push.n : push.k, columns);
    vec4 x;
    if (WIDE_B != 0 && columns % 4 == 0) {
        x = RIGHT_VEC4[(some.x ? at : start) / 4];
    } else {
        [[unroll]] for (uint i = 0; i < 4; ++i) {
            x[i] = RIGHT[some[i] ? at + i : start];
        }
    }
    return mix(vec4(0.0), x, some);
}

// Which four elements of a share this invocation moves as its i-th: if terms lie side by side in memory, four
// terms of one row (or column), eight of which neighbours move together; else one term of four rows. x counts
// along the tile, y along the terms.
uvec2 place(bool terms_side_by_side, uint tile, uint i) {
    uint index = gl_LocalInvocationIndex + i * INVOCATIONS;
    if (terms_side_by_side) {
        return uvec2(index / 2 % tile, (index / (2 * tile) * 2 + index % 2) * 4);
    }
    return uvec2(index % (tile / 4) * 4, index / (tile / 4));
}

vec4 next_left[LEFT_FETCHES];
vec4 next_right[RIGHT_FETCHES];

void fetch_share(uint a_start, uint b_start, uvec2 corner, uint term) {
    [[unroll]] for (uint i = 0; i < LEFT_FETCHES; ++i) {
        uvec2 at = place(TRANS_A == 0, TILE_ROWS, i) + uvec2(corner.y, term);
        next_left[i] = TRANS_A == 0 ? fetch_left(a_start, at.x, at.y) : fetch_left(a_start, at.y, at.x);
    }
    [[unroll]] for (uint i = 0; i < RIGHT_FETCHES; ++i) {
        uvec2 at = place(TRANS_B != 0, TILE_COLUMNS, i) + uvec2(corner.x, term);
        next_right[i] = TRANS_B != 0 ? fetch_right(b_start, at.x, at.y) : fetch_right(b_start, at.y, at.x);
    }
}

void store_share(uint share) {
    [[unroll]] for (uint i = 0; i < LEFT_FETCHES; ++i) {
        uvec2 at = place(TRANS_A == 0, TILE_ROWS, i);
        uint to = (share * STEP + at.y) * LEFT_QUADS + swizzled(at.x / 4, at.y);
        if (TRANS_A == 0) {
            [[unroll]] for (uint q = 0; q < 4; ++q) {
                left_tile[to + q * LEFT_QUADS][at.x % 4] = next_left[i][q];
            }
        } else {
            left_tile[to] = next_left[i];
        }
    }
    [[unroll]] for (uint i = 0; i < RIGHT_FETCHES; ++i) {
        uvec2 at = place(TRANS_B != 0, TILE_COLUMNS, i);
        uint to = (share * STEP + at.y) * RIGHT_QUADS + swizzled(at.x / 4, at.y);
        if (TRANS_B != 0) {
            [[unroll]] for (uint q = 0; q < 4; ++q) {
                right_tile[to + q * RIGHT_QUADS][at.x % 4] = next_right[i][q];
            }
        } else {
            right_tile[to] = next_right[i];
        }
    }
}

// Row 4 * i + r of quad column v: [(4 * i + r) * COLUMN_QUADS + v].
vec4 sum[SUMS];

void add_term(uint share, uint p, uint down, uint across) {
    vec4 left[ROW_QUADS];
    vec4 right[COLUMN_QUADS];
    [[unroll]] for (uint i = 0; i < ROW_QUADS; ++i) {
        left[i] = left_tile[(share * STEP + p) * LEFT_QUADS + i * DOWN + swizzled(down, p)];
    }
    [[unroll]] for (uint v = 0; v < COLUMN_QUADS; ++v) {
        right[v] = right_tile[(share * STEP + p) * RIGHT_QUADS + v * ACROSS + swizzled(across, p)];
    }
    // Every loop over registers is short: drivers leave long ones as they are, and then registers lie in memory.
    if (ORDER == 0) {
        [[unroll]] for (uint i = 0; i < ROW_QUADS; ++i) {
            [[unroll]] for (uint r = 0; r < 4; ++r) {
                [[unroll]] for (uint v = 0; v < COLUMN_QUADS; ++v) {
                    uint at = (4 * i + r) * COLUMN_QUADS + v;
                    sum[at] = MULTIPLY_ADD(vec4(left[i][r]), right[v], sum[at]);
                }
            }
        }
    } else if (ORDER == 1) {
        [[unroll]] for (uint v = 0; v < COLUMN_QUADS; ++v) {
            [[unroll]] for (uint r = 0; r < 4 * ROW_QUADS; ++r) {
                uint at = r * COLUMN_QUADS + v;
                [[unroll]] for (uint c = 0; c < 4; ++c) {
                    sum[at][c] = MULTIPLY_ADD(left[r / 4][r % 4], right[v][c], sum[at][c]);
                }
            }
        }
    } else {
        [[unroll]] for (uint i = 0; i < ROW_QUADS; ++i) {
            [[unroll]] for (uint v = 0; v < COLUMN_QUADS; ++v) {
                [[unroll]] for (uint c = 0; c < 4; ++c) {
                    [[unroll]] for (uint r = 0; r < 4; ++r) {
                        uint at = (4 * i + r) * COLUMN_QUADS + v;
                        sum[at][c] = MULTIPLY_ADD(left[i][r], right[v][c], sum[at][c]);
                    }
                }
            }
        }
    }
}

void add_share(uint share, uint down, uint across) {
    [[dont_unroll]] for (uint unrolled = 0; unrolled < STEP / UNROLLED; ++unrolled) {
        [[unroll]] for (uint q = 0; q < UNROLLED; ++q) {
            add_term(share, unrolled * UNROLLED + q, down, across);
        }
    }
}

// Adds the sums to what C holds, as far as they are inside; `again` unless this is the first time.
void add_to_result(uint c_start, uvec2 corner, uint down, uint across, bool again, bool last) {
    [[unroll]] for (uint at = 0; at < SUMS; ++at) {
        uint line = at / COLUMN_QUADS;
        uint row = corner.y + (line / 4 * DOWN + down) * 4 + line % 4;
        uint column = corner.x + (at % COLUMN_QUADS * ACROSS + across) * 4;
        uint to = c_start + row * push.ldc + column;
        if (WIDE_C != 0 && (WHOLE != 0 || (row < push.m && column + 4 <= push.n))) {
            vec4 x = again ? RESULT_VEC4[to / 4] + sum[at] : sum[at];
            if (last) {
                x = vec4(finished(x.x, column), finished(x.y, column + 1), finished(x.z, column + 2),
                         finished(x.w, column + 3));
            }
            RESULT_VEC4[to / 4] = x;
        } else if (WHOLE == 0 && row < push.m) {
            [[unroll]] for (uint i = 0; i < 4; ++i) {
                if (column + i < push.n) {
                    float x = again ? RESULT[to + i] + sum[at][i] : sum[at][i];
                    RESULT[to + i] = last ? finished(x, column + i) : x;
                }
            }
        }
        sum[at] = vec4(0.0);
    }
}

void main() {
    uvec2 corner = tile_corner();
    if (is_unwanted(corner.y + TILE_ROWS, corner.x)) {
        return;
    }
    uint a_start = batch_start(push.a_first, push.a_outer, push.a_inner);
    uint b_start = batch_start(push.b_first, push.b_outer, push.b_inner);
    uint c_start = batch_start(push.c_first, push.c_outer, push.c_inner);
    // Oblong patches of a tile read fewer different words of shared memory at once than rows of it.
    const uint FAR_ACROSS = ACROSS / NEAR_ACROSS;
    const uint NEAR_DOWN = 32 / NEAR_ACROSS;
    uint index = gl_LocalInvocationIndex;
    uint far = index / 32;
    uint across = far % FAR_ACROSS * NEAR_ACROSS + index % NEAR_ACROSS;
    uint down = far / FAR_ACROSS * NEAR_DOWN + index % 32 / NEAR_ACROSS;

    [[unroll]] for (uint i = 0; i < SUMS; ++i) {
        sum[i] = vec4(0.0);
    }
    uint end = end_of_terms(corner.y + TILE_ROWS);
    uint first = first_term(corner.y) / STEP * STEP;
    uint share = 0;
    bool again = false;
    fetch_share(a_start, b_start, corner, first);
    store_share(share);
    barrier();
    for (uint term = first; term < end; term += STEP) {
        bool more = term + STEP < end;
        if (more) {
            fetch_share(a_start, b_start, corner, term + STEP);
        }
        // Terms past the operands' ends are stored as zeros.
        add_share(share, down, across);
        if (SHARES == 1) {
            barrier();
        } else {
            share ^= 1;
        }
        if (more) {
            store_share(share);
        }
        barrier();
        if ((term + STEP) % TERMS_AT_A_TIME == 0 && more) {
            add_to_result(c_start, corner, down, across, again, false);
            again = true;
        }
    }
    add_to_result(c_start, corner, down, across, again, true);
}
