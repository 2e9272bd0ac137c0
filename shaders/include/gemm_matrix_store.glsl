// How the sums of a subgroup become elements of C.

// Puts a matrix of sums into the subgroup's staging, `across` matrices from its left end.
void stage(SUM sum, uint across) {
    uint at = gl_SubgroupID * (SIDE * STAGED_PITCH) + across * (SIDE / 4);
    coopMatStore(sum, tile, at, STAGED_PITCH, ROW_MAJOR);
}

// An element of C from what is staged of it.
float element(uint bits, uint column) {
    float total = uintBitsToFloat(bits);
    return finished(SCALED != 0 ? total * push.c_scale : total, column);
}

vec4 quad(uint at, uint column) {
    uvec4 bits = tile[at];
    return vec4(element(bits.x, column), element(bits.y, column + 1), element(bits.z, column + 2),
        element(bits.w, column + 3));
}

// Writes what the subgroup has staged, side by side lanes side by side elements. `inside` if no edge cuts it
// off. A packed row has an even number of columns.
void store_staged(bool inside, uint c_start, uint row, uint column) {
    const uint wide = C_PACKED != 0 ? 8 : 4; // elements that are written at once
    const uint across = STAGED_COLUMNS / wide;
    uint staging = gl_SubgroupID * (SIDE * STAGED_PITCH);
    for (uint i = gl_SubgroupInvocationID; i < SIDE * across; i += gl_SubgroupSize) {
        uint r = row + i / across;
        uint col = column + i % across * wide;
        uint from = staging + i / across * STAGED_PITCH + i % across * (wide / 4);
        uint at = c_start + r * push.ldc + col;
        bool full = inside || (WIDE_C != 0 && r < push.m && col + wide <= push.n);
        if (full && C_PACKED != 0) {
            c_uvec4[at / 8] = rounded(quad(from, col), quad(from + 1, col + 4), push.out_scale);
        } else if (full) {
            c_vec4[at / 4] = quad(from, col);
        } else if (r < push.m) {
            [[unroll]] for (uint e = 0; e < wide; e += 2) {
                uvec4 bits = tile[from + e / 4];
                if (C_PACKED != 0) {
                    if (col + e < push.n) {
                        float low = element(bits[e % 4], col + e);
                        float high = element(bits[e % 4 + 1], col + e + 1);
                        c_uint[(at + e) / 2] = rounded(vec4(low, high, 0.0, 0.0), vec4(0.0), push.out_scale).x;
                    }
                } else {
                    if (col + e < push.n) {
                        c[at + e] = element(bits[e % 4], col + e);
                    }
                    if (col + e + 1 < push.n) {
                        c[at + e + 1] = element(bits[e % 4 + 1], col + e + 1);
                    }
                }
            }
        }
    }
}

// Writes a matrix that lies in C as a whole, in rows that start at multiples of four, past shared memory.
void store_whole(SUM sum, uint c_start, uint row, uint column) {
    if (push.use_bias != 0) {
        SUM row_of_bias;
        coopMatLoad(row_of_bias, bias, column, 0, ROW_MAJOR);
        if (SCALED != 0) {
            sum *= push.c_scale;
        }
        sum += row_of_bias;
    }
    bool scale = SCALED != 0 && push.use_bias == 0;
    [[unroll]] for (uint i = 0; i < sum.length(); ++i) {
        float total = scale ? sum[i] * push.c_scale : sum[i];
        sum[i] = push.causal == CAUSAL_BLOCKS ? total : snap(total);
    }
    coopMatStore(sum, c, c_start + row * push.ldc + column, push.ldc, ROW_MAJOR);
}
