// A 2-D filter of 15 x 15 on floats, written for this benchmark to the specification that recorded spaces of
// convolution_kernel share: a block of block_size_x * block_size_y threads computes tile_size_x * tile_size_y outputs a
// thread, block_size apart. use_shmem: its input lies in shared memory, a row of which is padded (use_padding, where
// block_size_x is no multiple of the 32 banks) so that threads of neighbouring rows of a warp meet no bank twice.
// read_only: global memory is read through the read-only path. use_cmem: the filter lies in constant memory.
#define TILE_W (block_size_x * tile_size_x)
#define TILE_H (block_size_y * tile_size_y)
#define PITCH ((image_width + TILE_W - 1) / TILE_W * TILE_W + filter_width - 1)  // the input is padded to whole tiles
#define IN_W (TILE_W + filter_width - 1)
#define IN_H (TILE_H + filter_height - 1)
#define SHARED_W (IN_W + (use_padding && block_size_x % 32 ? (32 + block_size_x - IN_W % 32) % 32 : 0))

#if read_only
#define LOAD(place) __ldg(&(place))
#else
#define LOAD(place) (place)
#endif

#if use_cmem
__constant__ float d_filter[filter_height * filter_width];
#endif

extern "C" __global__ void convolution_kernel(float* output, const float* input, const float* filter) {
    const int x = blockIdx.x * TILE_W + threadIdx.x, y = blockIdx.y * TILE_H + threadIdx.y;
#if use_cmem
    const float* weights = d_filter;
#else
    const float* weights = filter;
#endif
#if use_shmem
    __shared__ float tile[IN_H][SHARED_W];
    const float* corner = input + (long long)blockIdx.y * TILE_H * PITCH + blockIdx.x * TILE_W;
#pragma unroll
    for (int down = 0; down < IN_H; down += block_size_y)
#pragma unroll
        for (int right = 0; right < IN_W; right += block_size_x) {
            const int row = down + threadIdx.y, column = right + threadIdx.x;
            if (row < IN_H && column < IN_W) tile[row][column] = LOAD(corner[row * PITCH + column]);
        }
    __syncthreads();
#endif
    float sum[tile_size_y][tile_size_x] = {};
#pragma unroll
    for (int i = 0; i < filter_height; ++i)
#pragma unroll
        for (int j = 0; j < filter_width; ++j)
#pragma unroll
            for (int ty = 0; ty < tile_size_y; ++ty)
#pragma unroll
                for (int tx = 0; tx < tile_size_x; ++tx) {
#if use_shmem
                    const int row = threadIdx.y + ty * block_size_y + i, column = threadIdx.x + tx * block_size_x + j;
                    const float value = tile[row][column];
#else
                    const float value = LOAD(input[(y + ty * block_size_y + i) * PITCH + x + tx * block_size_x + j]);
#endif
                    sum[ty][tx] += value * weights[i * filter_width + j];
                }
#pragma unroll
    for (int ty = 0; ty < tile_size_y; ++ty)
#pragma unroll
        for (int tx = 0; tx < tile_size_x; ++tx) {
            const int right = x + tx * block_size_x, down = y + ty * block_size_y;
            if (right < image_width && down < image_height) output[down * image_width + right] = sum[ty][tx];
        }
}
