// From an image file to a network's input, and from its logits to class names, as intraq-deploy does both.
//
// All that a model.onnx needs for this stands in its own properties. The resizing is that of Pillow, pixel for pixel:
// the network sees here what it saw when its accuracy was measured. Compile with -ffp-contract=off: a fused
// multiply-add, which compilers use on arm64, rounds differently.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <map>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace classification {

inline std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + " cannot be read: give another file.");
  return {std::istreambuf_iterator<char>(file), {}};
}

// ---- Properties of an ONNX file -------------------------------------------------------------------------------------

// The fields of a protobuf message that hold bytes, by number. ONNX files are such messages.
inline std::multimap<int, std::string> fields(const std::string& message) {
  std::size_t at = 0;
  auto number = [&] {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(message.at(at++));
      value |= static_cast<std::uint64_t>(byte & 127) << shift;
      if (byte < 128) return value;
    }
    throw std::out_of_range("a number has no end");
  };
  std::multimap<int, std::string> found;
  while (at < message.size()) {
    const std::uint64_t tag = number();
    switch (tag & 7) {
      case 0: number(); break;
      case 1: at += 8; break;
      case 5: at += 4; break;
      case 2: {
        const std::uint64_t length = number();
        if (length > message.size() - at) throw std::out_of_range("a field is cut off");
        found.emplace(static_cast<int>(tag >> 3), message.substr(at, length));
        at += length;
        break;
      }
      default: throw std::out_of_range("a field has no known type");
    }
  }
  return found;
}

// The metadata_props of an ONNX file: "mean" is "[0.485, 0.456, 0.406]".
inline std::map<std::string, std::string> properties(const std::string& path) {
  constexpr int metadata_props = 14, key = 1, value = 2;
  std::map<std::string, std::string> found;
  try {
    const auto model = fields(read_file(path));
    const auto [first, last] = model.equal_range(metadata_props);
    for (auto property = first; property != last; ++property) {
      const auto entry = fields(property->second);
      const auto name = entry.find(key), text = entry.find(value);
      if (name != entry.end() && text != entry.end()) found[name->second] = text->second;
    }
  } catch (const std::out_of_range&) {
    throw std::runtime_error(path + " is no ONNX file, or is cut off: export it again.");
  }
  for (const char* name : {"mean", "std", "resize", "interpolation"})
    if (!found.count(name)) throw std::runtime_error(path + " has no property '" + name + "': export it again.");
  return found;
}

// A JSON list of numbers.
inline std::vector<float> numbers(std::string json) {
  for (char& character : json)
    if (character == '[' || character == ']' || character == ',') character = ' ';
  std::istringstream words(json);
  std::vector<float> found;
  for (double value; words >> value;) found.push_back(static_cast<float>(value));
  return found;
}

// A JSON list of strings, in UTF-8.
inline std::vector<std::string> strings(const std::string& json) {
  std::vector<std::string> found;
  for (std::size_t at = json.find('"'); at < json.size(); at = json.find('"', at + 1)) {
    std::string text;
    for (++at; json.at(at) != '"'; ++at) {
      if (json[at] != '\\') {
        text += json[at];
      } else if (json.at(++at) != 'u') {
        text += json[at];  // a quote or a backslash; class names hold no line breaks
      } else {
        auto unit = [&](std::size_t from) { return std::stoul(json.substr(from, 4), nullptr, 16); };
        unsigned long code = unit(at + 1);
        at += 4;
        if (code >= 0xD800 && code < 0xDC00) {  // the first of a pair
          code = 0x10000 + ((code - 0xD800) << 10) + (unit(at + 3) - 0xDC00);
          at += 6;
        }
        const int more = code < 0x80 ? 0 : code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
        const unsigned long heads[] = {0, 0xC0, 0xE0, 0xF0};
        text += static_cast<char>(heads[more] | (code >> (6 * more)));
        for (int part = more - 1; part >= 0; --part) text += static_cast<char>(0x80 | ((code >> (6 * part)) & 0x3F));
      }
    }
    found.push_back(text);
  }
  return found;
}

// ---- Images ---------------------------------------------------------------------------------------------------------

struct Image {
  int height, width, channels;
  std::vector<std::uint8_t> pixels;  // [height][width][channels]

  Image(int height, int width, int channels)
      : height(height), width(width), channels(channels), pixels(std::size_t(height) * width * channels) {}

  std::uint8_t& at(int row, int column, int channel) {
    return pixels[(std::size_t(row) * width + column) * channels + channel];
  }
  std::uint8_t at(int row, int column, int channel) const {
    return pixels[(std::size_t(row) * width + column) * channels + channel];
  }
};

// A binary .ppm or .pgm file. Put your camera or your decoder (OpenCV, libjpeg) in its place: RGB, not BGR.
inline Image read_image(const std::string& path, int channels) {
  std::istringstream file(read_file(path));
  auto word = [&] {
    std::string found, comment;
    while (file >> found && found[0] == '#') std::getline(file, comment);
    return found;
  };
  const std::string kind = word(), width = word(), height = word(), largest = word();
  if ((kind != "P5" && kind != "P6") || largest != "255")
    throw std::runtime_error(path + " is no .ppm or .pgm file with 8 bits: convert it, as in: convert it.jpg it.ppm");
  file.get();
  Image stored(std::stoi(height), std::stoi(width), kind == "P6" ? 3 : 1);
  file.read(reinterpret_cast<char*>(stored.pixels.data()), static_cast<std::streamsize>(stored.pixels.size()));
  if (stored.pixels.empty() || !file) throw std::runtime_error(path + " is cut off: give another file.");
  if (stored.channels == channels) return stored;
  if (stored.channels == 3)
    throw std::runtime_error(path + " has colours, and the network reads " + std::to_string(channels) + " channel(s).");
  Image image(stored.height, stored.width, channels);
  for (std::size_t index = 0; index < image.pixels.size(); ++index)
    image.pixels[index] = stored.pixels[index / channels];
  return image;
}

struct Preprocessing {
  std::vector<float> mean, std;  // per channel, of pixels scaled to 0..1
  int resize;                    // pixels of the short side; 0: only images of another size are resized
  bool squash;                   // whether both sides are resized to it
  std::string interpolation;

  explicit Preprocessing(const std::map<std::string, std::string>& properties)
      : mean(numbers(properties.at("mean"))),
        std(numbers(properties.at("std"))),
        resize(properties.at("resize") == "null" ? 0 : std::stoi(properties.at("resize"))),
        squash(properties.count("squash") && properties.at("squash") == "true"),
        interpolation(properties.at("interpolation")) {}
};

inline double triangle(double x) { return std::max(0.0, 1.0 - std::abs(x)); }

inline double cubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0.0;
}

// Resizes one axis, rounded to 8 bits.
inline Image resized_axis(const Image& image, bool is_height, int wanted, bool is_cubic) {
  const int size = is_height ? image.height : image.width, lines = is_height ? image.width : image.height;
  Image out(is_height ? wanted : lines, is_height ? lines : wanted, image.channels);
  const double scale = double(size) / wanted, stretch = std::max(scale, 1.0), reach = (is_cubic ? 2.0 : 1.0) * stretch;
  constexpr int bits = 22;  // of the weights' fraction
  for (int index = 0; index < wanted; ++index) {
    const double centre = (index + 0.5) * scale;
    const int first = std::max(int(centre - reach + 0.5), 0), last = std::min(int(centre + reach + 0.5), size);
    std::vector<double> weights;
    for (int x = first; x < last; ++x) {
      const double distance = (x - centre + 0.5) * (1.0 / stretch);
      weights.push_back(is_cubic ? cubic(distance) : triangle(distance));
    }
    const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
    std::vector<std::int64_t> fixed;
    for (double weight : weights)
      fixed.push_back(std::int64_t(std::copysign(0.5, weight) + weight / total * (1 << bits)));
    for (int line = 0; line < lines; ++line)
      for (int channel = 0; channel < image.channels; ++channel) {
        std::int64_t sum = std::int64_t(1) << (bits - 1);
        for (int x = first; x < last; ++x)
          sum += fixed[x - first] * (is_height ? image.at(x, line, channel) : image.at(line, x, channel));
        const auto value = std::uint8_t(std::clamp<std::int64_t>(sum >> bits, 0, 255));
        (is_height ? out.at(index, line, channel) : out.at(line, index, channel)) = value;
      }
  }
  return out;
}

inline Image resized(Image image, int height, int width, const std::string& interpolation) {
  if (interpolation != "bilinear" && interpolation != "bicubic")
    throw std::runtime_error("The interpolation " + interpolation + " is not written here: add it to resized_axis.");
  const int fewer_rows = image.height - height, fewer_columns = image.width - width;
  // Pillow 13 begins with the height where that loses more than twice as much; each axis is rounded by itself.
  const bool height_first = fewer_rows > 0 && fewer_rows > 2 * fewer_columns;
  for (bool is_height : {height_first, !height_first})
    if (is_height ? fewer_rows : fewer_columns)
      image = resized_axis(image, is_height, is_height ? height : width, interpolation == "bicubic");
  return image;
}

// Resizes and crops to the network's size. What lies outside the image is black.
inline Image to_network_size(const Image& image, int height, int width, const Preprocessing& preprocessing) {
  const double rows = image.height, columns = image.width, resize = preprocessing.resize;
  int tall = image.height, wide = image.width;
  if (!preprocessing.resize) {
    if (tall != height || wide != width) {
      const double scale = std::max(height / rows, width / columns);
      tall = std::max(height, int(std::nearbyint(rows * scale)));
      wide = std::max(width, int(std::nearbyint(columns * scale)));
    }
  } else if (preprocessing.squash) {
    tall = preprocessing.resize * height / std::min(height, width);
    wide = preprocessing.resize * width / std::min(height, width);
  } else {
    tall = columns <= rows ? int(resize * rows / columns) : preprocessing.resize;
    wide = columns <= rows ? preprocessing.resize : int(resize * columns / rows);
  }
  const Image whole = resized(image, tall, wide, preprocessing.interpolation);
  const int top = int(std::nearbyint((tall - height) / 2.0)), left = int(std::nearbyint((wide - width) / 2.0));
  Image crop(height, width, image.channels);
  for (int row = std::max(0, -top); row < std::min(height, tall - top); ++row)
    for (int column = std::max(0, -left); column < std::min(width, wide - left); ++column)
      for (int channel = 0; channel < image.channels; ++channel)
        crop.at(row, column, channel) = whole.at(top + row, left + column, channel);
  return crop;
}

// The pixels of an image, [channels][height][width]: the input of networks that were exported with --input uint8.
inline std::vector<std::uint8_t> planes(const Image& image) {
  std::vector<std::uint8_t> found;
  for (int channel = 0; channel < image.channels; ++channel)
    for (std::size_t at = channel; at < image.pixels.size(); at += image.channels) found.push_back(image.pixels[at]);
  return found;
}

// (pixel / 255 - mean) / std, [channels][height][width]: the input of all other networks.
inline std::vector<float> normalised(const Image& image, const Preprocessing& preprocessing) {
  const std::vector<std::uint8_t> pixels = planes(image);
  const std::size_t plane = pixels.size() / image.channels;
  std::vector<float> found(pixels.size());
  for (std::size_t at = 0; at < found.size(); ++at)
    found[at] = (float(pixels[at]) / 255.0f - preprocessing.mean.at(at / plane)) / preprocessing.std.at(at / plane);
  return found;
}

// ---- Answers --------------------------------------------------------------------------------------------------------

// Prints the five likeliest classes; before them all logits, if asked to.
inline void print(const std::vector<float>& logits, const std::map<std::string, std::string>& properties, bool all) {
  if (all)
    for (float logit : logits) std::printf("%.9g\n", logit);
  const auto listed = properties.find("classes");
  const auto names = listed == properties.end() ? std::vector<std::string>{} : strings(listed->second);
  const double largest = *std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (float logit : logits) total += std::exp(logit - largest);
  std::vector<std::size_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return logits[a] > logits[b]; });
  order.resize(std::min<std::size_t>(5, order.size()));
  for (std::size_t index : order) {
    const std::string name = index < names.size() ? names[index] : std::to_string(index);
    std::printf("%6.2f %%  %s\n", 100 * std::exp(logits[index] - largest) / total, name.c_str());
  }
}

}  // namespace classification
