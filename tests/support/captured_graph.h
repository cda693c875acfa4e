#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

namespace tierstream {

/// What `work` queues on a stream, captured once and launched as often as one likes.
class CapturedGraph {
 public:
  template <class Work>
  CapturedGraph(cudaStream_t stream, const Work& work) {
    EXPECT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), cudaSuccess);
    work();
    cudaGraph_t graph = nullptr;
    EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    EXPECT_EQ(cudaGraphInstantiate(&graph_, graph, 0), cudaSuccess);
    EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  }
  CapturedGraph(const CapturedGraph&) = delete;
  CapturedGraph& operator=(const CapturedGraph&) = delete;
  ~CapturedGraph() { cudaGraphExecDestroy(graph_); }
  void launch(cudaStream_t stream) const { EXPECT_EQ(cudaGraphLaunch(graph_, stream), cudaSuccess); }

 private:
  cudaGraphExec_t graph_ = nullptr;
};

}  // namespace tierstream
