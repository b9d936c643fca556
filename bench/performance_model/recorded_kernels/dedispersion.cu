// Brute-force dedispersion of 8-bit samples, written for this benchmark to the specification that recorded spaces of
// dedispersion_kernel share: out[dm][sample] is the sum over channels of in[channel][sample + delay(dm, channel)]. A
// block of block_size_x * block_size_y threads sums tile_size_x samples of tile_size_y dispersion measures a thread,
// neighbours (tile_stride 0) or block_size apart (1).
__constant__ float d_delays[CHANNELS];

extern "C" __global__ void dedispersion_kernel(const unsigned char* input, float* output, float dm_first,
                                               float dm_step) {
#if tile_stride_x
    const int sample = blockIdx.x * block_size_x * tile_size_x + threadIdx.x, step_x = block_size_x;
#else
    const int sample = (blockIdx.x * block_size_x + threadIdx.x) * tile_size_x, step_x = 1;
#endif
#if tile_stride_y
    const int dm = blockIdx.y * block_size_y * tile_size_y + threadIdx.y, step_y = block_size_y;
#else
    const int dm = (blockIdx.y * block_size_y + threadIdx.y) * tile_size_y, step_y = 1;
#endif
    float sum[tile_size_y][tile_size_x] = {};
    for (int channel = 0; channel < CHANNELS; ++channel) {
        const unsigned char* row = input + (long long)channel * PITCH + sample;
#pragma unroll
        for (int ty = 0; ty < tile_size_y; ++ty) {
            const int delay = (dm_first + (dm + ty * step_y) * dm_step) * d_delays[channel];
#pragma unroll
            for (int tx = 0; tx < tile_size_x; ++tx)
                sum[ty][tx] += row[delay + tx * step_x];
        }
    }
#pragma unroll
    for (int ty = 0; ty < tile_size_y; ++ty)
#pragma unroll
        for (int tx = 0; tx < tile_size_x; ++tx) {
            const int at = sample + tx * step_x, of = dm + ty * step_y;
            if (at < SAMPLES && of < DMS) output[(long long)of * SAMPLES + at] = sum[ty][tx];
        }
}
