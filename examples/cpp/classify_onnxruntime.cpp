// Classifies an image with ONNX Runtime's CPU provider.
//
//   classify model.onnx photo.ppm [--logits]

#include <onnxruntime_cxx_api.h>

#include <cstdio>
#include <string>

#include "classification.h"

static void classify(const char* model, const char* photo, bool all) {
  const auto properties = classification::properties(model);
  Ort::Env environment(ORT_LOGGING_LEVEL_ERROR, "classify");
  Ort::Session session(environment, model, Ort::SessionOptions{});

  const auto type = session.GetInputTypeInfo(0);
  const auto input = type.GetTensorTypeAndShapeInfo();
  std::vector<int64_t> shape = input.GetShape();  // [N, channels, height, width]; N is open
  shape[0] = 1;

  const classification::Preprocessing preprocessing(properties);
  const auto image = classification::to_network_size(
      classification::read_image(photo, int(shape[1])), int(shape[2]), int(shape[3]), preprocessing);
  auto pixels = classification::planes(image);
  auto values = classification::normalised(image, preprocessing);

  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const bool takes_pixels = input.GetElementType() == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
  const auto given =
      takes_pixels
          ? Ort::Value::CreateTensor<uint8_t>(memory, pixels.data(), pixels.size(), shape.data(), shape.size())
          : Ort::Value::CreateTensor<float>(memory, values.data(), values.size(), shape.data(), shape.size());

  const char* const inputs[] = {"image"};
  const char* const outputs[] = {"logits"};
  const auto found = session.Run(Ort::RunOptions{}, inputs, &given, 1, outputs, 1);
  const float* logits = found[0].GetTensorData<float>();
  const std::size_t classes = found[0].GetTensorTypeAndShapeInfo().GetElementCount();
  classification::print({logits, logits + classes}, properties, all);
}

int main(int count, char** words) {
  if (count < 3) {
    std::fprintf(stderr, "usage: %s model.onnx photo.ppm [--logits]\n", words[0]);
    return 2;
  }
  try {
    classify(words[1], words[2], count > 3 && std::string(words[3]) == "--logits");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "Error: %s\n", error.what());
    return 1;
  }
}
