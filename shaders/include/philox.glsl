// Counter-based random numbers: Philox4x32-10 (Salmon et al. 2011). Twin of src/exact/philox.rs.

const uint PHILOX_MULTIPLIER_0 = 0xd2511f53u;
const uint PHILOX_MULTIPLIER_1 = 0xcd9e8d57u;
const uint PHILOX_WEYL_0 = 0x9e3779b9u;
const uint PHILOX_WEYL_1 = 0xbb67ae85u;

uvec4 philox(uvec4 counter, uvec2 key) {
    for (uint i = 0; i < 10; ++i) {
        uint low_0, low_1, high_0, high_1;
        umulExtended(PHILOX_MULTIPLIER_0, counter.x, high_0, low_0);
        umulExtended(PHILOX_MULTIPLIER_1, counter.z, high_1, low_1);
        counter = uvec4(high_1 ^ counter.y ^ key.x, low_1, high_0 ^ counter.w ^ key.y, low_0);
        key = key + uvec2(PHILOX_WEYL_0, PHILOX_WEYL_1);
    }
    return counter;
}

// The four words of block `block` of the stream that seed, purpose and step (low and high word each) name.
uvec4 random_words(uvec2 seed, uint purpose, uvec2 step_number, uint block) {
    return philox(uvec4(block, purpose, step_number), seed);
}

// Word `index` of that stream.
uint random_u32(uvec2 seed, uint purpose, uvec2 step_number, uint index) {
    return random_words(seed, purpose, step_number, index / 4)[index % 4];
}
