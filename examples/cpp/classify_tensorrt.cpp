// Classifies an image with TensorRT 8.5 or newer, by an engine that trtexec has built from the same model.onnx.
//
//   classify model.onnx model.engine photo.ppm [--logits]

#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <cstdio>
#include <memory>
#include <string>

#include "classification.h"

class Logger : public nvinfer1::ILogger {
  void log(Severity severity, const char* message) noexcept override {
    if (severity <= Severity::kWARNING) std::fprintf(stderr, "TensorRT: %s\n", message);
  }
};

static void check(bool well, const char* what) {
  if (!well) throw std::runtime_error(std::string("TensorRT cannot ") + what + ".");
}

static void check(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(status) + ".");
}

// Memory on the GPU.
class Buffer {
 public:
  explicit Buffer(std::size_t bytes) { check(cudaMalloc(&address_, bytes)); }
  ~Buffer() { cudaFree(address_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  void* address() const { return address_; }

 private:
  void* address_ = nullptr;
};

static void classify(const char* model, const char* file, const char* photo, bool all) {
  const auto properties = classification::properties(model);
  const std::string data = classification::read_file(file);

  Logger logger;
  const std::unique_ptr<nvinfer1::IRuntime> runtime(nvinfer1::createInferRuntime(logger));
  check(runtime != nullptr, "start");
  const std::unique_ptr<nvinfer1::ICudaEngine> engine(runtime->deserializeCudaEngine(data.data(), data.size()));
  check(engine != nullptr, "load the engine: build it on this GPU, with this version");
  const std::unique_ptr<nvinfer1::IExecutionContext> context(engine->createExecutionContext());
  check(context != nullptr, "prepare the engine");

  const auto shape = engine->getTensorShape("image");  // [N, channels, height, width]; N is open
  check(shape.nbDims == 4, "find the input 'image' in the engine");
  const int channels = int(shape.d[1]), height = int(shape.d[2]), width = int(shape.d[3]);
  check(context->setInputShape("image", nvinfer1::Dims4(1, channels, height, width)), "take one image");
  const auto answers = context->getTensorShape("logits");  // [1, classes]
  check(answers.nbDims == 2, "find the output 'logits' in the engine");
  std::vector<float> logits(std::size_t(answers.d[1]));

  const classification::Preprocessing preprocessing(properties);
  const auto image =
      classification::to_network_size(classification::read_image(photo, channels), height, width, preprocessing);
  const auto pixels = classification::planes(image);
  const auto values = classification::normalised(image, preprocessing);
  const bool takes_pixels = engine->getTensorDataType("image") == nvinfer1::DataType::kUINT8;
  const void* given = takes_pixels ? static_cast<const void*>(pixels.data()) : values.data();
  const std::size_t bytes = takes_pixels ? pixels.size() : values.size() * sizeof(float);

  const Buffer input(bytes), output(logits.size() * sizeof(float));
  check(context->setTensorAddress("image", input.address()), "take memory for 'image'");
  check(context->setTensorAddress("logits", output.address()), "take memory for 'logits'");
  cudaStream_t stream;
  check(cudaStreamCreate(&stream));
  check(cudaMemcpyAsync(input.address(), given, bytes, cudaMemcpyHostToDevice, stream));
  check(context->enqueueV3(stream), "run the engine");
  check(cudaMemcpyAsync(
      logits.data(), output.address(), logits.size() * sizeof(float), cudaMemcpyDeviceToHost, stream));
  check(cudaStreamSynchronize(stream));
  check(cudaStreamDestroy(stream));
  classification::print(logits, properties, all);
}

int main(int count, char** words) {
  if (count < 4) {
    std::fprintf(stderr, "usage: %s model.onnx model.engine photo.ppm [--logits]\n", words[0]);
    return 2;
  }
  try {
    classify(words[1], words[2], words[3], count > 4 && std::string(words[4]) == "--logits");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "Error: %s\n", error.what());
    return 1;
  }
}
