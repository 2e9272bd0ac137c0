// Eight floats at a time, for CPU-type devices: software Vulkan moves what a load or a store reaches word by
// word, and a word of 64 bits costs it no more than one of 32.

float[8] eight(u64vec4 words) {
    vec2 a = uintBitsToFloat(unpackUint2x32(words.x));
    vec2 b = uintBitsToFloat(unpackUint2x32(words.y));
    vec2 c = uintBitsToFloat(unpackUint2x32(words.z));
    vec2 d = uintBitsToFloat(unpackUint2x32(words.w));
    return float[8](a.x, a.y, b.x, b.y, c.x, c.y, d.x, d.y);
}

uint64_t pair(float low, float high) {
    return packUint2x32(uvec2(floatBitsToUint(low), floatBitsToUint(high)));
}

u64vec4 packed(float x[8]) {
    return u64vec4(pair(x[0], x[1]), pair(x[2], x[3]), pair(x[4], x[5]), pair(x[6], x[7]));
}
