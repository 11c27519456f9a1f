// Manifests reads Kubernetes manifests (YAML, several documents) from stdin, decodes each strictly
// into the type that Kubernetes itself has for it (an unknown or doubled field is an error), and
// writes all of them to stdout as a JSON array.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

type identity struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
}

// prometheusRule is the part that we use of the type of the operator of Prometheus. What its rules say
// is read by alertrules.
type prometheusRule struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Groups []struct {
			Name  string `json:"name"`
			Rules []struct {
				Alert       string            `json:"alert"`
				Expr        string            `json:"expr"`
				For         string            `json:"for,omitempty"`
				Labels      map[string]string `json:"labels"`
				Annotations map[string]string `json:"annotations"`
			} `json:"rules"`
		} `json:"groups"`
	} `json:"spec"`
}

func empty(id identity) any {
	switch id {
	case identity{"apps/v1", "Deployment"}:
		return &appsv1.Deployment{}
	case identity{"batch/v1", "Job"}:
		return &batchv1.Job{}
	case identity{"v1", "Service"}:
		return &corev1.Service{}
	case identity{"v1", "ServiceAccount"}:
		return &corev1.ServiceAccount{}
	case identity{"v1", "ConfigMap"}:
		return &corev1.ConfigMap{}
	case identity{"v1", "PersistentVolumeClaim"}:
		return &corev1.PersistentVolumeClaim{}
	case identity{"networking.k8s.io/v1", "NetworkPolicy"}:
		return &networkingv1.NetworkPolicy{}
	case identity{"policy/v1", "PodDisruptionBudget"}:
		return &policyv1.PodDisruptionBudget{}
	case identity{"monitoring.coreos.com/v1", "PrometheusRule"}:
		return &prometheusRule{}
	}
	return nil
}

func decode(text string) (any, error) {
	var id identity
	if err := yaml.Unmarshal([]byte(text), &id); err != nil {
		return nil, err
	}
	object := empty(id)
	if object == nil {
		return nil, fmt.Errorf("%s %s: of no kind that is expected", id.APIVersion, id.Kind)
	}
	if err := yaml.UnmarshalStrict([]byte(text), object); err != nil {
		return nil, fmt.Errorf("%s %s: %w", id.APIVersion, id.Kind, err)
	}
	return object, nil
}

// blank reports whether a document holds nothing but comments.
func blank(text string) bool {
	for _, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "#") {
			return false
		}
	}
	return true
}

func main() {
	input, err := io.ReadAll(os.Stdin)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	objects := []any{}
	for _, text := range strings.Split("\n"+string(input), "\n---") {
		if blank(text) {
			continue
		}
		object, err := decode(text)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		objects = append(objects, object)
	}
	if err := json.NewEncoder(os.Stdout).Encode(objects); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
